from pathlib import Path

import miniature
import numpy as np
import onnx
import torch
from exporting import make_networks
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.export.onnx import to_onnx
from ptqflow.export.onnx_fold import fold
from ptqflow.export.qdq import build_qdq
from ptqflow.models.architecture import build_model
from ptqflow.models.fp32 import ModelCard
from ptqflow.runtime.runtimes import onnxruntime_session


def test_the_graph_of_a_resnet18_is_clean_and_small_and_fuses(inputs: list[Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", "standard", 10, (3, 32, 32)).eval()
    card = ModelCard(
        name="resnet18",
        stem="standard",
        classes=tuple("0123456789"),
        preprocessing=Preprocessing.default((32, 32)),
        normalization=miniature.NORMALIZATION,
        code_sha256=None,
    )
    images = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    module = make_networks(model, card, images, fuse_additions=False).int8.module
    serialized = to_onnx(build_qdq(module, (3, 32, 32)), (3, 32, 32), {})
    assert len(serialized) < 12e6
    graph = onnx.load_from_string(serialized).graph
    operators = {node.op_type for node in graph.node}
    assert operators == {
        *("QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten"),
        "Gemm",
    }
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {kinds[dequantized[weight]] for weight in weights} == {onnx.TensorProto.INT8}

    onnxruntime_session(serialized, optimized_model_filepath=str(tmp_path / "optimized.onnx"))
    optimized = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (optimized.count("QLinearConv"), optimized.count("QLinearAdd")) == (
        20,
        7,
    )  # the last is before the FP32 head
    assert (optimized.count("Conv"), optimized.count("QuantizeLinear")) == (0, 1)


def graph(nodes: list[onnx.NodeProto], tensors: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """A graph from images (N, 3, 4, 4) to logits (N, 48)."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 48])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def reshape_by_shapes(constant: str) -> onnx.ModelProto:
    """Reshape to (N, 48), with all sizes computed as torch's exporter does."""
    numbers = {"zero": np.array(0), "one": np.array([1]), "four": np.array([4]), "axes": np.array([0])}
    return graph(
        [
            helper.make_node("Shape", ["images"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["batch"]),
            helper.make_node("Unsqueeze", ["batch", "axes"], ["batches"]),
            helper.make_node("Slice", ["shape", "one", "four", "axes"], ["sizes"]),
            helper.make_node("ReduceProd", ["sizes"], ["size"], keepdims=1),
            helper.make_node("Concat", ["batches", "size"], ["target"], axis=0),
            helper.make_node("Reshape", ["images", "target"], ["flat"]),
            helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32(0.5))),
            helper.make_node("ConstantOfShape", ["one"], ["zeros"]),
            helper.make_node("Add", ["half", "zeros"], ["sum"]),
            helper.make_node("Identity", ["flat"], ["same"]),
            helper.make_node("Mul", ["same", constant], ["logits"]),
        ],
        {name: value.astype(np.int64) for name, value in numbers.items()},
    )


def test_sizes_that_do_not_depend_on_the_batch_are_folded_and_reshape_infers_the_batch() -> None:
    model = reshape_by_shapes("sum")
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Reshape", "Mul"]
    [shape] = [tensor for tensor in folded.graph.initializer if tensor.name == folded.graph.node[0].input[1]]
    assert numpy_helper.to_array(shape).tolist() == [-1, 48]
    images = np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32)
    found, expected = (
        onnxruntime_session(m.SerializeToString()).run(None, {"images": images})[0] for m in (folded, model)
    )
    assert np.array_equal(found, expected)


def test_what_is_unused_is_removed() -> None:
    weights = np.ones((4, 4), np.float32)
    model = graph(
        [
            helper.make_node("Add", ["images", "a"], ["x"]),
            helper.make_node("Add", ["x", "b"], ["y"]),
            helper.make_node("Relu", ["y"], ["unused"]),
            helper.make_node("Flatten", ["y"], ["logits"]),
        ],
        {"a": weights, "b": weights.copy(), "c": weights + 1},
    )
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Add", "Add", "Flatten"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["a", "b"]


def test_weights_stay_int8() -> None:
    model = graph(
        [
            helper.make_node("DequantizeLinear", ["weight", "scale"], ["w"]),
            helper.make_node("Add", ["images", "w"], ["x"]),
            helper.make_node("Flatten", ["x"], ["logits"]),
        ],
        {"weight": np.ones((4, 4), np.int8), "scale": np.float32(0.5)},
    )
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["DequantizeLinear", "Add", "Flatten"]
    assert {tensor.data_type for tensor in folded.graph.initializer} == {TensorProto.INT8, TensorProto.FLOAT}
