from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from exporting import Exported, make_networks
from fresh_process import ENGINES, FUSING, SCHEMES
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.convert.sensitivity import measure_sensitivity
from ptqflow.core.errors import ModelError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.preprocessing import to_input
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import _FUNCTIONS, build_qdq, step_outputs, step_roundings
from ptqflow.fx.layers import list_layers
from ptqflow.models.canonical import canonicalize
from ptqflow.runtime.runtimes import onnxruntime_session


def run_onnx(model: Path | bytes, images: Tensor) -> Tensor:
    session = onnxruntime_session(model, intra_op_num_threads=1)
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
def test_the_graph_computes_what_the_kernels_of_every_engine_do(
    engine: str, reduce_range: bool, per_channel: bool, inputs: list[Tensor]
) -> None:
    """Also above 127 where 7 bits are used: the images are brighter than those that calibrated."""
    torch.manual_seed(0)
    model = miniature.residual(6).eval()
    changes = {"activation": {"reduce_range": reduce_range}, "weight": {"per_channel": per_channel}}
    networks = make_networks(model, miniature.card(), inputs, engine=engine, head="int8", **changes)
    module = networks.int8.module
    images = 1.5 * torch.cat(inputs)
    file = to_onnx(build_qdq(module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})
    with torch.inference_mode():
        expected = module(images)
    found = run_onnx(file, images)
    step = float(module.fc.scale)
    assert ((found - expected).abs() > 1.5 * step).float().mean() < 0.02
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.95


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_of_a_network_for_grey_or_rgba_images_computes_what_the_kernels_do(
    engine: str, channels: int
) -> None:
    torch.manual_seed(0)
    how = Preprocessing.default(miniature.PREPROCESSING.size, {1: "L", 4: "RGBA"}[channels])  # type: ignore[arg-type]
    changes = {"normalization": miniature.NORMALIZATIONS[channels], "preprocessing": how}
    card = miniature.card().model_copy(update=changes)
    images = to_input(torch.from_numpy(miniature.images(40, channels=channels)), card.normalization)
    model = miniature.residual(6, channels).eval()
    module = make_networks(model, card, list(images.split(8)), engine=engine).int8.module
    file = to_onnx(build_qdq(module, card.input_shape), card.input_shape, {})
    with torch.inference_mode():
        expected, exact = module(images), model(images)
    assert (expected - exact).norm() < 0.1 * exact.norm()
    torch.testing.assert_close(run_onnx(file, images), expected, atol=0.02, rtol=0)


def test_onnx_runtime_also_runs_convolutions_that_it_does_not_fuse(inputs: list[Tensor]) -> None:
    """Those to which a residual is added before the rounding, on a CPU without VNNI too."""
    torch.manual_seed(0)
    networks = make_networks(miniature.residual(6).eval(), miniature.card(), inputs, engine=FUSING, fuse_additions=True)
    file = to_onnx(build_qdq(networks.int8.module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})
    with torch.inference_mode():
        expected = networks.int8.module(inputs[0])
    torch.testing.assert_close(run_onnx(file, inputs[0]), expected, atol=0.02, rtol=0)


def test_what_torch_has_no_kernel_for_is_exported_between_int8_layers(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    networks = make_networks(miniature.normed(6).eval(), miniature.card("normed"), inputs)
    module = networks.int8.module
    file = to_onnx(build_qdq(module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})
    with torch.inference_mode():
        expected = module(inputs[0])
    torch.testing.assert_close(run_onnx(file, inputs[0]), expected, atol=0.02, rtol=0)


class Twice(nn.Module):
    """Runs a layer twice, on inputs of different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.hardswish(self.conv(self.conv(x))).mean((2, 3)))


class Mixed(nn.Module):
    """Additions, a concatenation, a pooling and a mean between INT8 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.pool, self.last, self.fc = nn.AvgPool2d(2), nn.Conv2d(16, 8, 1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(x) + x
        x = self.pool(torch.add(self.third(x), x))
        x = self.last(torch.cat([x, x.relu()], 1))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("kept", "steps"),
    [
        ([], set[str]()),
        (["add"], {"add", "add_1"}),
        (["cat", "AvgPool2d"], {"cat", "pool"}),
        (["mean"], {"mean"}),
        (["conv2d"], {"first", "second", "third", "last"}),
        (["add_1", "Linear"], {"add_1", "fc"}),
    ],
)
def test_a_type_that_is_kept_is_fp32_in_torch_in_the_file_and_for_the_sensitivity(
    kept: list[str], steps: set[str], inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model, card = canonicalize(Mixed().eval(), miniature.INPUT_SHAPE), miniature.card()
    networks = make_networks(model, card, inputs, head="int8", fuse_additions=False, keep_fp32=kept)

    int8 = networks.int8
    layers = list_layers(model, int8.module)
    assert {layer.name for layer in layers if layer.note == "kept FP32"} == steps
    assert all(layer.precision == "fp32" for layer in layers if layer.name in steps)
    measured = measure_sensitivity(model, card, int8.card, int8.module, miniature.split(9), 9)
    assert measured.keys() == {layer.name for layer in layers if layer.precision == "int8"}
    assert not measured.keys() & steps
    file = to_onnx(build_qdq(int8.module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})
    with torch.inference_mode():
        expected = int8.module(inputs[0])
    torch.testing.assert_close(run_onnx(file, inputs[0]), expected, atol=0.02, rtol=0)


def test_a_layer_that_runs_twice_is_exported_twice(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    module = make_networks(Twice().eval(), miniature.card(), inputs).int8.module
    file = to_onnx(build_qdq(module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})
    with torch.inference_mode():
        expected = module(inputs[0])
    torch.testing.assert_close(run_onnx(file, inputs[0]), expected, atol=0.02, rtol=0)


def test_the_graph_rounds_where_torch_does_and_to_the_same_levels(exported: Exported, inputs: list[Tensor]) -> None:
    module = exported.networks.int8.module
    roundings = step_roundings(module, miniature.INPUT_SHAPE)
    outputs = step_outputs(module, inputs[0])
    assert roundings["conv2"].scale == pytest.approx(float(module.conv2.scale))
    assert set(outputs) <= set(roundings)
    for name, output in outputs.items():
        levels = output.values / roundings[name].scale + roundings[name].zero_point
        assert np.abs(levels - levels.round()).max() < 1e-3, name
        assert (levels.min(), levels.max()) >= (-1e-3, 0)
        assert levels.max() < 255 + 1e-3


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.left(x) + self.right(x))).flatten(1)


def test_a_kernel_without_a_float_operation_is_named(inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    networks = make_networks(Summed().eval(), miniature.card(), inputs, head="int8")
    monkeypatch.delitem(_FUNCTIONS, "add_relu")
    with pytest.raises(ModelError, match=r"support torch's INT8 kernel add_relu; list .* in convert.keep_fp32"):
        build_qdq(networks.int8.module, miniature.INPUT_SHAPE)
