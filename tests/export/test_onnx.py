import json
from collections.abc import Callable
from pathlib import Path

import miniature
import numpy as np
import onnx
import pytest
import torch
from exporting import Exported, make_networks
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.core.errors import ModelError
from ptqflow.data.fidelity import sqnr_db
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.models.canonical import canonicalize
from ptqflow.runtime.manifest import INT8_ONNX
from ptqflow.runtime.runtimes import onnxruntime_session


class Pooled(nn.Module):
    """Pools to a size that does not divide that of its input, and to a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.fc = nn.Linear(4 * 81, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(self.conv(x), 2), 9)
        return self.fc(torch.flatten(x, 1))


def test_adaptive_pooling_takes_the_same_means_for_any_sizes(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Pooled().eval()
    found = onnxruntime_session(to_onnx(model, miniature.INPUT_SHAPE, {})).run(None, {"images": inputs[0].numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(inputs[0]).numpy(), atol=1e-5)


class Unknown(nn.Module):
    """Runs what ONNX has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.odd = Odd()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.odd(self.conv(x)).mean((2, 3)))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_the_graph_says_how_images_become_its_input(exported: Exported) -> None:
    model = onnx.load(exported.directory / INT8_ONNX)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["input"])["mean"] == list(miniature.NORMALIZATION.mean)
    assert json.loads(metadata["classes"]) == list(miniature.CLASSES)


def test_an_operation_without_an_operator_is_named_with_its_layer() -> None:
    with pytest.raises(
        ModelError,
        match=r"^odd \(aten::special_bessel_j0\) .*; set export.onnx=false, or write it with other operations$",
    ):
        to_onnx(Unknown().eval(), miniature.INPUT_SHAPE, {})


class Enlarged(nn.Module):
    """Calls functions that ONNX has no operator for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.inner, self.fc = nn.Conv2d(3, 8, 3), Called(function), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inner(F.relu(self.conv(x))).mean((2, 3)))


class Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (lambda x: F.interpolate(x, 9, mode="nearest-exact"), "interpolate in inner (aten::_upsample_nearest_exact2d)"),
        (lambda x: F.interpolate(x, 9, mode="bilinear", antialias=True), "interpolate in inner (aten::_upsample_bil"),
        (lambda x: x + x.rot90(1, (2, 3)), "rot90 in inner (aten::rot90)"),
        (nn.Upsample(9, mode="nearest-exact"), "inner.function (aten::_upsample_nearest_exact2d)"),
    ],
    ids=["interpolate", "antialias", "method", "module"],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_users_function_is_named_and_torch_prints_nothing(
    function: Callable[[Tensor], Tensor],
    where: str,
    precision: str,
    inputs: list[Tensor],
    capfd: pytest.CaptureFixture[str],
) -> None:
    model: nn.Module = canonicalize(Enlarged(function).eval(), miniature.INPUT_SHAPE)
    if precision == "int8":
        model = build_qdq(make_networks(model, miniature.card(), inputs).int8.module, miniature.INPUT_SHAPE)

    with pytest.raises(ModelError) as refusal:
        to_onnx(model, miniature.INPUT_SHAPE, {})

    assert str(refusal.value).startswith(f"{where}")
    assert str(refusal.value).endswith("; set export.onnx=false, or write it with other operations")
    assert tuple(capfd.readouterr()) == ("", "")


class Shuffling(nn.Module):
    """Shuffles channels between INT8 layers, in the ways that torch offers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.last = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.shuffle, self.head = nn.ChannelShuffle(4), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        batch, channels, *sizes = self.mid(x).shape
        x = self.mid(x).view(batch, 2, channels // 2, *sizes).transpose(1, 2).reshape(batch, channels, *sizes)
        return self.head(self.last(self.shuffle(x)).mean((2, 3)))


def test_shuffled_channels_are_exported_for_any_number_of_images(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = canonicalize(Shuffling().eval(), miniature.INPUT_SHAPE)
    module = make_networks(model, miniature.card(), inputs).int8.module

    session = onnxruntime_session(to_onnx(build_qdq(module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {}))

    for count in (1, 2, 5):
        images = inputs[0][:count]
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        with torch.inference_mode():
            ratio = sqnr_db(found, module(images))
        assert ratio is None or ratio > 30


def test_equal_networks_have_equal_bytes(exported: Exported) -> None:
    model = exported.networks.fp32
    assert to_onnx(model, miniature.INPUT_SHAPE, {"a": "b"}) == to_onnx(model, miniature.INPUT_SHAPE, {"a": "b"})


class Hidden(nn.Module):
    """Has a linear layer before a step that takes unrounded sums."""

    def __init__(self, *, bias: bool, tokens: bool) -> None:
        super().__init__()
        self.conv, self.hidden, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 16, bias=bias), nn.Linear(16, 6)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.tokens:
            return self.fc(F.hardswish(self.hidden(x.flatten(2).transpose(1, 2))).mean(1))
        return self.fc(F.hardswish(self.hidden(x.mean((2, 3)))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [False, True])
def test_onnxruntime_runs_a_linear_layer_with_unrounded_sums_in_int8_and_dequantizes_no_weight(
    bias: bool, tokens: bool, inputs: list[Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = canonicalize(Hidden(bias=bias, tokens=tokens).eval(), miniature.INPUT_SHAPE)
    int8 = make_networks(model, miniature.card(), inputs).int8.module
    file, optimized = tmp_path / "int8.onnx", tmp_path / "optimized.onnx"
    file.write_bytes(to_onnx(build_qdq(int8, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {}))
    session = onnxruntime_session(file, optimized_model_filepath=str(optimized))
    images = torch.cat(inputs)
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], int8(images), atol=2e-3)  # a level
    graph = onnx.load(optimized).graph
    stored = {tensor.name for tensor in graph.initializer}
    assert [node.name for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored] == []
    assert {node.op_type for node in graph.node} & {"QGemm", "MatMulIntegerToFloat"}
