"""Layers whose output is not rounded, against torch's reference modules and in every file and runtime."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniature
import onnx
import pytest
import torch
from fresh_process import ENGINES, collect, convert_params, decibels
from onnx import GraphProto, NodeProto, TensorProto
from torch import Tensor, nn
from torch.ao.nn.quantized import reference
from torch.ao.quantization import default_per_channel_weight_observer, default_weight_observer
from torch.ao.quantization.quantize_fx import convert_fx
from torch.nn import functional as F

from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.core.engines import Engine
from ptqflow.data.fidelity import sqnr_db
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.artifact import load_int8, save_int8
from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.layers import list_layers
from ptqflow.fx.prepare import backend_config, without_torch_warnings
from ptqflow.models.canonical import canonicalize
from ptqflow.runtime.runtimes import onnxruntime_session, openvino_model

LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda bias: nn.Conv1d(6, 8, 3, 2, 1, groups=2, bias=bias), (2, 6, 9)),
    "conv2d": (lambda bias: nn.Conv2d(6, 8, (3, 2), 2, (1, 0), 2, 2, bias), (2, 6, 9, 9)),
    "padding in a word": (lambda bias: nn.Conv2d(6, 8, 4, padding="same", bias=bias), (2, 6, 9, 9)),
    "one channel": (lambda bias: nn.Conv2d(6, 1, 3, bias=bias), (2, 6, 9, 9)),
    "conv3d": (lambda bias: nn.Conv3d(6, 8, 2, padding=1, bias=bias), (2, 6, 3, 4, 5)),
    "linear": (lambda bias: nn.Linear(6, 8, bias=bias), (2, 6)),
    "linear on rows": (lambda bias: nn.Linear(6, 8, bias=bias), (2, 3, 4, 6)),
}
GATED = {"stem.0", "squeeze", "excite", "depthwise", "widen", "narrow"}
"""Layers of `miniature.gated` of which `squeeze` alone is read by an INT8 step."""


def reference_of(layer: Any, per_channel: bool) -> nn.Module:
    """Return torch's reference module."""
    observer = default_per_channel_weight_observer() if per_channel else default_weight_observer()
    observer(layer.weight.detach())
    scale, zero_point = observer.calculate_qparams()
    qscheme = torch.per_channel_affine if per_channel else torch.per_tensor_affine
    qparams = {"qscheme": qscheme, "dtype": torch.qint8, "scale": scale, "zero_point": zero_point, "axis": 0}
    return getattr(reference, type(layer).__name__).from_float(layer, qparams)


def float_output(layer: nn.Module, relu: bool = False) -> FloatOutput:
    with without_torch_warnings():
        return FloatOutput(layer, relu=relu)


def run(model: nn.Module, images: Tensor) -> Tensor:
    with without_torch_warnings(), torch.inference_mode():
        return model(images)


def quantized(model: nn.Module, inputs: list[Tensor], **changes: object) -> Quantized:
    params = convert_params(**{"head": "int8"} | changes)
    return quantize(model, miniature.card("gated"), params, collect(model, inputs), miniature.split(40))


@pytest.fixture
def gated() -> nn.Module:
    torch.manual_seed(0)
    return canonicalize(miniature.gated(len(miniature.CLASSES)), miniature.INPUT_SHAPE)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_it_returns_what_torchs_reference_module_does_bit_for_bit(
    name: str, per_channel: bool, bias: bool, relu: bool
) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(bias).eval(), torch.randn(shape)
    expected = reference_of(layer, per_channel)

    found = float_output(expected, relu)

    assert torch.equal(run(found, x), run(nn.Sequential(expected, nn.ReLU()) if relu else expected, x))
    assert found.weight.dtype == torch.int8
    assert found.scale.numel() == (len(layer.weight) if per_channel else 1)
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.int8, torch.float32}


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 8, 3, bias=False), lambda: nn.Linear(3, 8, bias=False)])
def test_a_bias_that_was_added_after_conversion_is_loaded(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer = make()
    without = float_output(reference_of(layer, True))
    layer.bias = nn.Parameter(torch.randn(8))
    corrected = float_output(reference_of(layer, True))

    without.load_state_dict(corrected.state_dict())

    x = torch.randn(2, 3, 5, 5) if isinstance(layer, nn.Conv2d) else torch.randn(2, 3)
    assert torch.equal(run(without, x), run(corrected, x))


class Before(nn.Module):
    """A layer, with ReLU or not, before SiLU."""

    def __init__(self, layer: nn.Module, to_input: Callable[[Tensor], Tensor], relu: bool) -> None:
        super().__init__()
        self.layer, self.to_input = layer, to_input
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.relu(self.layer(self.to_input(x)))).flatten(1)[:, :6]


BEFORE: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 6, 3), lambda x: x.flatten(2)),
    "conv2d": (lambda: nn.Conv2d(3, 6, 3, bias=False), lambda x: x),
    "conv3d": (lambda: nn.Conv3d(3, 6, (1, 3, 3)), lambda x: x.unsqueeze(2)),
    "linear": (lambda: nn.Linear(8, 6), lambda x: x),
}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_before_an_activation_is_one_also_with_relu_fused_into_it(
    engine: Engine, name: str, relu: bool, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    layer, to_input = BEFORE[name]
    model, images = canonicalize(Before(layer(), to_input, relu), miniature.INPUT_SHAPE), torch.cat(inputs)

    made = quantized(model, inputs, engine=engine)

    assert isinstance(made.converted.layer, FloatOutput)
    with without_torch_warnings():
        expected = convert_fx(copy.deepcopy(made.prepared), backend_config=backend_config(made.prepared))
    assert torch.equal(run(made.converted, images), run(expected, images))
    assert (sqnr_db(run(made.converted, images), run(model, images)) or 0) > decibels(35, engine)
    (listed,) = (found for found in list_layers(model, made.converted) if found.name == "layer")
    assert (listed.operation, listed.precision) == (type(layer()).__name__, "int8")
    assert listed.note == ("with relu; " if relu else "") + "its output is not rounded"


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_is_a_step_of_its_own(mode: str, inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = canonicalize(
        Before(nn.Conv2d(3, 6, 3, padding=1, padding_mode=mode), lambda x: x, relu=False), miniature.INPUT_SHAPE
    )
    converted, images = quantized(model, inputs).converted, torch.cat(inputs)

    (layer,) = (module for module in converted.modules() if isinstance(module, FloatOutput))
    assert layer.options["padding"] == (0, 0)
    assert "pad" in {node.name for node in converted.graph.nodes}
    assert (sqnr_db(run(converted, images), run(model, images)) or 0) > decibels(35, "x86")
    with pytest.raises(AssertionError):
        float_output(reference_of(nn.Conv2d(3, 6, 3, padding=1, padding_mode=mode), True))


@pytest.mark.parametrize("reduce_range", [None, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_layers_of_a_network_that_no_int8_step_reads_are_ones(
    engine: Engine, reduce_range: bool | None, gated: nn.Module, inputs: list[Tensor]
) -> None:
    made, images = quantized(gated, inputs, engine=engine, activation={"reduce_range": reduce_range}), torch.cat(inputs)

    found = {name for name, module in made.converted.named_modules() if isinstance(module, FloatOutput)}
    assert found == GATED - {"squeeze"}
    notes = {layer.name: layer.note for layer in list_layers(gated, made.converted) if layer.precision == "int8"}
    assert {name for name, note in notes.items() if note.endswith("its output is not rounded")} == found
    assert notes.keys() == GATED | {"fc"}
    assert (sqnr_db(run(made.converted, images), run(gated, images)) or 0) > 20


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_comes_back_from_disk_bit_for_bit_with_int8_weights_alone(
    engine: Engine,
    per_channel: bool,
    bias_correction: bool,
    tmp_path: Path,
    gated: nn.Module,
    inputs: list[Tensor],
) -> None:
    changes = {"weight": {"per_channel": per_channel}, "bias_correction": bias_correction}
    made, images = quantized(gated, inputs, engine=engine, **changes), torch.cat(inputs)

    save_int8(tmp_path / "int8", made.prepared, made.converted, [], made.card, images)

    assert torch.equal(run(load_int8(tmp_path / "int8").module, images), run(made.converted, images))
    state = torch.load(tmp_path / "int8" / "state.pt", weights_only=True)
    assert all(state[f"{name}.weight"].dtype == torch.int8 for name in GATED - {"squeeze"})
    assert ("narrow.bias" in state) is bias_correction


@pytest.mark.parametrize("engine", ENGINES)
def test_torchscript_has_the_same_logits_bit_for_bit_and_holds_int8_weights(
    engine: Engine, tmp_path: Path, gated: nn.Module, inputs: list[Tensor]
) -> None:
    converted, images = quantized(gated, inputs, engine=engine).converted, torch.cat(inputs)
    (tmp_path / "int8.pt").write_bytes(to_torchscript(converted, miniature.INPUT_SHAPE))

    with without_torch_warnings():
        script = torch.jit.load(tmp_path / "int8.pt")
    assert torch.equal(run(script, images), run(converted, images))
    constants = [node.t("value") for node in script.graph.findAllNodes("prim::Constant") if is_tensor(node)]
    shapes = {
        dtype: {tuple(tensor.shape) for tensor in constants if tensor.dtype == dtype}
        for dtype in (torch.int8, torch.float32)
    }
    weights = {tuple(module.weight.shape) for module in converted.modules() if isinstance(module, FloatOutput)}
    assert shapes[torch.int8] == weights
    assert not weights & shapes[torch.float32]


def is_tensor(node: Any) -> bool:
    return node.hasAttribute("value") and node.kindOf("value") == "t"


def written(model: nn.Module, inputs: list[Tensor], path: Path, **changes: object) -> nn.Module:
    """Write the ONNX file of a network and return that of torch."""
    converted = quantized(model, inputs, **changes).converted
    qdq = build_qdq(converted, miniature.INPUT_SHAPE)
    path.write_bytes(to_onnx(qdq, miniature.INPUT_SHAPE, {}))
    return converted


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    return {output: node for node in graph.node for output in node.output}


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_onnx_file_has_int8_weights_with_cast_and_mul_for_convolutions_and_dequantizelinear_for_matmul(
    per_channel: bool, tmp_path: Path, gated: nn.Module, inputs: list[Tensor]
) -> None:
    written(gated, inputs, tmp_path / "int8.onnx", weight={"per_channel": per_channel})
    graph = onnx.load(tmp_path / "int8.onnx").graph
    tensors, made_by = {tensor.name: tensor for tensor in graph.initializer}, producers(graph)
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            weight = made_by[node.input[1]]
            steps = [weight.op_type]
            if weight.op_type == "Mul":
                weight = made_by[weight.input[0]]
                steps.insert(0, weight.op_type)
            assert tensors[weight.input[0]].data_type == TensorProto.INT8
            found[weight.input[0].removesuffix(".weight")] = (node.op_type, *steps)

    cast, dequantized = ("Conv", "Cast", "Mul"), ("Conv", "DequantizeLinear")
    assert found == {
        **{"stem.0": cast, "squeeze": dequantized, "excite": cast, "depthwise": cast},
        **dict.fromkeys(("widen", "narrow"), ("MatMul", "DequantizeLinear")),
        "fc": ("Gemm", "DequantizeLinear"),
    }


def test_the_onnx_file_has_no_initializer_that_no_step_reads_and_no_name_twice(
    tmp_path: Path, gated: nn.Module, inputs: list[Tensor]
) -> None:
    written(gated, inputs, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph

    initializers = [tensor.name for tensor in graph.initializer]
    assert set(initializers) <= {name for node in graph.node for name in node.input}
    outputs = [output for node in graph.node for output in node.output]
    assert len(set(initializers + outputs)) == len(initializers + outputs)


class Twice(nn.Module):
    """Runs layers twice, each time before an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(F.silu(self.conv(x)))).mean((2, 3))
        return self.fc(F.silu(self.linear(F.silu(self.linear(x)))))


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_layer_that_runs_twice_is_exported(
    per_channel: bool, canonical: bool, tmp_path: Path, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model, images = Twice().eval(), torch.cat(inputs)
    model = canonicalize(model, miniature.INPUT_SHAPE) if canonical else model
    converted = written(model, inputs, tmp_path / "int8.onnx", weight={"per_channel": per_channel})

    assert sum(isinstance(module, FloatOutput) for module in converted.modules()) == (4 if canonical else 2)
    assert agreement(onnxruntime(tmp_path / "int8.onnx", images), run(converted, images)) > 60


def onnxruntime(path: Path, images: Tensor) -> Tensor:
    return torch.from_numpy(onnxruntime_session(path).run(None, {"images": images.numpy()})[0])


def openvino(path: Path, images: Tensor) -> Tensor:
    return torch.from_numpy(openvino_model(path)(images.numpy())[0].copy())


def agreement(logits: Tensor, expected: Tensor) -> float:
    return sqnr_db(logits, expected) or float("inf")


@pytest.mark.parametrize("runtime", [onnxruntime, openvino])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", BEFORE)
def test_the_runtimes_return_what_torch_does_for_each_kind_of_layer(
    name: str, relu: bool, runtime: Callable[[Path, Tensor], Tensor], tmp_path: Path, inputs: list[Tensor]
) -> None:
    if runtime is openvino:
        pytest.importorskip("openvino")
    torch.manual_seed(0)
    layer, to_input = BEFORE[name]
    model, images = canonicalize(Before(layer(), to_input, relu), miniature.INPUT_SHAPE), torch.cat(inputs)
    converted = written(model, inputs, tmp_path / "int8.onnx", activation={"reduce_range": True})

    assert agreement(runtime(tmp_path / "int8.onnx", images), run(converted, images)) > 60


@pytest.mark.parametrize("runtime", [onnxruntime, openvino])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_runtimes_return_what_torch_does_to_a_thousandth(
    engine: Engine,
    per_channel: bool,
    runtime: Callable[[Path, Tensor], Tensor],
    tmp_path: Path,
    gated: nn.Module,
    inputs: list[Tensor],
) -> None:
    if runtime is openvino:
        pytest.importorskip("openvino")
    changes = {"weight": {"per_channel": per_channel}, "activation": {"reduce_range": True}}
    converted = written(gated, inputs, tmp_path / "int8.onnx", engine=engine, head="fp32", **changes)
    images = torch.cat(inputs)

    assert agreement(runtime(tmp_path / "int8.onnx", images), run(converted, images)) > 60
