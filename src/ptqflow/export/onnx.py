"""Export of networks as ONNX."""

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.onnx import register_custom_op_symbolic, symbolic_helper  # type: ignore[attr-defined]
from torch.onnx.errors import OnnxExporterError

from ptqflow.core.errors import ModelError, one_line
from ptqflow.core.normalization import InputShape
from ptqflow.export.onnx_concat import find_readers, round_concatenations
from ptqflow.export.onnx_fold import fold
from ptqflow.export.qdq import DOMAIN, round_to_uint8
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.models.nodes import copy_sharing_tensors, function_name, scope
from ptqflow.runtime.manifest import INPUT, OUTPUT

OPSET = 17
_IR_VERSION = 8  # of the same time as the opset


def to_onnx(model: nn.Module, input_shape: InputShape, metadata: Mapping[str, str]) -> bytes:
    """Return a network, FP32 or the QDQ graph of an INT8 one, as an ONNX file for any number of images.

    Bytes are equal for equal networks.

    Raises:
        ModelError: ONNX has no operator for an operation; the error names it.
    """
    exported = onnx.load_from_string(_trace(model, input_shape))
    _write_roundings(exported.graph)
    onnx_model = helper.make_model(
        exported.graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )
    onnx_model = fold(onnx_model)
    round_concatenations(onnx_model.graph)
    _dequantize_once(onnx_model.graph)
    _separate_weights(onnx_model.graph)
    onnx_model.graph.name = "classifier"
    onnx_model.producer_name = "ptqflow"
    helper.set_model_props(onnx_model, dict(metadata))
    onnx.checker.check_model(onnx_model, full_check=True)
    serialized: bytes = onnx_model.SerializeToString(deterministic=True)
    return serialized


def _trace(model: nn.Module, input_shape: InputShape) -> bytes:
    example, buffer = torch.zeros(2, *input_shape), io.BytesIO()
    register_custom_op_symbolic("aten::adaptive_avg_pool2d", _pool_adaptively, OPSET)
    try:
        with _plain_attention(), without_torch_warnings(), _without_output(), torch.inference_mode():
            torch.onnx.export(
                model,
                (example,),
                buffer,  # type: ignore[arg-type]  # torch accepts a buffer
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                custom_opsets={DOMAIN: 1} if _has_roundings(model) else None,
            )
    except (OnnxExporterError, RuntimeError) as error:
        found = re.search(r"(?:aten::|operator )(\w+)", str(error))
        where = (
            f"{_find_step(model, example, f'aten::{found[1]}')} (aten::{found[1]})" if found else type(model).__name__
        )
        raise ModelError(
            f"{where} cannot be written as ONNX ({one_line(error)[:200]}); "
            "set export.onnx=false, or write it with other operations"
        ) from None
    return buffer.getvalue()


def _has_roundings(model: nn.Module) -> bool:
    nodes: list[Node] = list(model.graph.nodes) if isinstance(model, GraphModule) else []
    return any(node.target is round_to_uint8 for node in nodes)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let torch compute attention in single operations: ONNX has no operator for its fused kernel."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _pool_adaptively(g: Any, x: Any, output_size: Any) -> Any:
    """Return adaptive average pooling also for an output size that does not divide the input size."""
    sizes = symbolic_helper._get_tensor_sizes(x)[-2:]
    outputs = symbolic_helper._get_const(output_size, "is", "output_size")
    if outputs == [1, 1]:
        return g.op("GlobalAveragePool", x)
    rows, columns = (_averages(size, output) for size, output in zip(sizes, outputs, strict=True))
    product = g.op("MatMul", x, g.op("Constant", value_t=columns.t().contiguous()))
    return g.op("MatMul", g.op("Constant", value_t=rows), product)


def _averages(size: int, output: int) -> Tensor:
    """Return the weights (output, size) of the means that adaptive pooling computes along one dimension."""
    weights = torch.zeros(output, size)
    for i in range(output):
        first, end = i * size // output, -(-(i + 1) * size // output)
        weights[i, first:end] = 1 / (end - first)
    return weights


def _find_step(model: nn.Module, example: Tensor, operation: str) -> str:
    """Return the first step that runs an operation: the path of its module, or its function and what calls that."""
    functions: dict[str, Node] = {}
    traced = model
    if isinstance(model, GraphModule):
        nodes = [node for node in model.graph.nodes if node.op in ("call_function", "call_method")]
        functions = {f"step_{node.name}": node for node in nodes}
        traced = _with_functions_as_modules(model)
    with without_torch_warnings(), torch.inference_mode():
        graph = torch.jit.trace(traced, example, check_trace=False).inlined_graph
    scopes = [node.scopeName().rpartition("__module.")[2] for node in graph.findAllNodes(operation)]
    name = next((found for found in scopes if found), type(model).__name__)
    if name not in functions:
        return name
    path, function = scope(functions[name]), function_name(functions[name])
    return f"{function} in {path}" if path else function


def _with_functions_as_modules(model: GraphModule) -> GraphModule:
    """Return a copy of which torch.jit records every step as a scope, as it does for modules."""
    copied: Any = copy_sharing_tensors(model)
    for node in copied.graph.nodes:
        if node.op in ("call_function", "call_method"):
            copied.add_submodule(f"step_{node.name}", _Function(node.target))
            node.op, node.target = "call_module", f"step_{node.name}"
    copied.recompile()
    assert isinstance(copied, GraphModule)
    return copied


class _Function(nn.Module):
    """Calls a function or a method."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


@contextmanager
def _without_output() -> Iterator[None]:
    """Discard what torch's C++ code prints: the whole graph, if an operation has no operator."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _write_roundings(graph: GraphProto) -> None:
    """Replace the operators of a QDQ graph in the domain of ptqflow by those of ONNX."""
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
        elif node.op_type == "Round":
            nodes += _round(graph, node)
        else:
            nodes.append(_expand(graph, node))
    del graph.node[:]
    graph.node.extend(nodes)


def _dequantize_once(graph: GraphProto) -> None:
    """Write DequantizeLinear as Cast and Mul for weights of convolutions whose output is not rounded.

    ONNX Runtime has no INT8 kernel for these. It folds Cast and Mul when it loads the file, and DequantizeLinear never:
    it would dequantize the weights with each image, and take another kernel. To OpenVINO both are the same.
    """
    readers = find_readers(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        convolutions = [reader for reader in readers.get(node.output[0], []) if reader.op_type == "Conv"]
        if weight is None or weight.data_type != TensorProto.INT8 or any(_is_rounded(c, readers) for c in convolutions):
            nodes.append(node)
        else:
            nodes += _cast_and_multiply(graph, node, tensors) if convolutions else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    unread = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unread:
        graph.initializer.remove(tensor)


def _is_rounded(convolution: NodeProto, readers: Mapping[str, list[NodeProto]]) -> bool:
    """Return whether the output of a convolution is quantized, after its activation or addition at the latest."""
    following = readers.get(convolution.output[0], [])
    while len(following) == 1 and following[0].op_type in ("Relu", "Clip", "Add", "LeakyRelu"):
        following = readers.get(following[0].output[0], [])
    return any(node.op_type == "QuantizeLinear" for node in following)


def _cast_and_multiply(graph: GraphProto, node: NodeProto, tensors: Mapping[str, TensorProto]) -> list[NodeProto]:
    weight, (quantized, scale) = tensors[node.input[0]], node.input
    factor, floats = f"{node.output[0]}.factor", f"{node.output[0]}.unscaled"
    factors = numpy_helper.to_array(tensors[scale]).reshape(-1, *[1] * (len(weight.dims) - 1))
    graph.initializer.append(numpy_helper.from_array(factors, factor))
    return [
        helper.make_node("Cast", [quantized], [floats], f"{node.name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [floats, factor], list(node.output), node.name),
    ]


def _separate_weights(graph: GraphProto) -> None:
    """Write a weight again for each further step that reads it, and the zero points of all weights, which are 0.

    ONNX Runtime runs Gemm in INT8 only if its weight has zero points. Without VNNI it converts weights to uint8, and
    fails if two steps share one, or if a layer that it does not run in INT8 has a weight without zero points.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    taken: set[str] = set()
    for node in graph.node:
        weight = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.data_type != TensorProto.INT8:
            continue
        if weight.name in taken:
            node.input[0] = f"{weight.name}.{len(taken)}"
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weight), node.input[0]))
        taken.add(node.input[0])
        node.input.append(f"{node.input[0]}.zero_point")
        zeros = np.zeros(tensors[node.input[1]].dims, np.int8)
        graph.initializer.append(numpy_helper.from_array(zeros, node.input[2]))


def _round(graph: GraphProto, node: NodeProto) -> list[NodeProto]:
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    name = options["name"].decode()
    scale, zero_point, quantized = f"{name}.output_scale", f"{name}.output_zero_point", f"{name}.quantized"
    graph.initializer.append(numpy_helper.from_array(np.array(options["scale"], np.float32), scale))
    graph.initializer.append(numpy_helper.from_array(np.array(options["zero_point"], np.uint8), zero_point))
    return [
        helper.make_node("QuantizeLinear", [node.input[0], scale, zero_point], [quantized], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [quantized, scale, zero_point], list(node.output), f"{name}.dequantize"),
    ]


def _expand(graph: GraphProto, node: NodeProto) -> NodeProto:
    quantized, scale = node.input
    return helper.make_node(
        "DequantizeLinear",
        [quantized, scale],
        list(node.output),
        f"{quantized}.dequantize",
        axis=helper.get_node_attr_value(node, "axis"),
    )
