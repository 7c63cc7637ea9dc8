"""Networks that return their logits in a dict or a dataclass, as Hugging Face's classifiers do."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ptqflow.core.errors import ModelError
from ptqflow.models.architecture import build_model
from ptqflow.models.canonical import canonicalize

SHAPE = (3, 8, 8)
IMAGES = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Classifier(nn.Module):
    def __init__(self, num_classes: int, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.backbone, self.classifier = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.wrap = wrap

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> object:
        return self.wrap(self.classifier(self.backbone(pixel_values).relu().mean((2, 3))))


def in_dict(num_classes: int) -> nn.Module:
    return Classifier(num_classes, lambda logits: {"loss": None, "logits": logits})


def in_dataclass(num_classes: int) -> nn.Module:
    return Classifier(num_classes, Output)


def in_tuple(num_classes: int) -> nn.Module:
    return Classifier(num_classes, lambda logits: (logits, None))


def in_dict_of_another_name(num_classes: int) -> nn.Module:
    return Classifier(num_classes, lambda logits: {"scores": logits})


def bare(num_classes: int) -> nn.Module:
    return Classifier(num_classes, lambda logits: logits)


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wrapping_networks", sys.modules[__name__])


def build(function: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(f"wrapping_networks:{function}", "standard", 5, SHAPE).eval()


@pytest.mark.parametrize("function", ["in_dict", "in_dataclass"])
def test_logits_in_a_dict_or_a_dataclass_are_what_the_network_returns(function: str) -> None:
    model, expected = build(function), build("bare")
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), expected(IMAGES))
        assert torch.equal(canonicalize(model, SHAPE)(IMAGES), expected(IMAGES))
    assert isinstance(model, Classifier)
    assert model.state_dict().keys() == expected.state_dict().keys()


@pytest.mark.parametrize(("function", "found"), [("in_tuple", "tuple"), ("in_dict_of_another_name", "dict")])
def test_other_outputs_are_refused_with_what_is_allowed(function: str, found: str) -> None:
    with pytest.raises(ModelError) as refusal:
        build(function)
    assert str(refusal.value) == (
        f"model.name=wrapping_networks:{function} returns {found} for two images, not one score for each of 5 classes; "
        "let it return a tensor (images, classes), or a dict or dataclass with such `logits`"
    )
