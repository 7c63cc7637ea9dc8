import json

import miniature
import numpy as np
import onnx
import pytest
import torch
from exporting import Exported
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.core.errors import ModelError
from ptqflow.export.onnx import to_onnx
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
    with pytest.raises(ModelError, match=r"^odd \(aten::special_bessel_j0\) .* set export.onnx=false$"):
        to_onnx(Unknown().eval(), miniature.INPUT_SHAPE, {})


def test_equal_networks_have_equal_bytes(exported: Exported) -> None:
    model = exported.networks.fp32
    assert to_onnx(model, miniature.INPUT_SHAPE, {"a": "b"}) == to_onnx(model, miniature.INPUT_SHAPE, {"a": "b"})
