"""What is published with weights, and one line where there is no such description."""

import importlib.util

import pytest

from ptqflow.core.errors import ModelError
from ptqflow.models.description import Description, describe_weights
from ptqflow.models.params import ModelParams

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an extra")


def model(
    name: str = "resnet18", weights: str | None = "IMAGENET1K_V1", preprocessing: str | None = None
) -> ModelParams:
    return ModelParams(name=name, weights=weights, stem="standard", mean=None, std=None, preprocessing=preprocessing)


def found(params: ModelParams) -> Description:
    description = describe_weights(params)
    assert description
    return description


def refusal(params: ModelParams) -> str:
    with pytest.raises(ModelError) as caught:
        describe_weights(params)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_published_weights_are_described_by_their_name_by_that_of_their_file_or_by_the_one_that_is_named() -> None:
    by_name = found(model())
    assert by_name.of == "torchvision's weights resnet18.IMAGENET1K_V1"
    assert found(model(weights="downloads/resnet18-f37072fd.pth")) == by_name
    assert found(model(weights="mine.pt", preprocessing="torchvision:IMAGENET1K_V1")) == by_name
    assert found(model("resnet50", "IMAGENET1K_V1", "torchvision:IMAGENET1K_V2")).preprocessing.resized == (232, 232)


@pytest.mark.parametrize(
    "params", [model(weights=None), model(weights="a/b.pt"), model("mine:build"), model("no_such_net")]
)
def test_without_a_key_other_weights_have_no_description(params: ModelParams) -> None:
    assert describe_weights(params) is None


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            model(weights=None, preprocessing="torchvision"),
            "model.weights is null; name the ones that it stems from, such as torchvision:IMAGENET1K_V1",
        ),
        (
            model(weights="a/b.pt", preprocessing="torchvision"),
            "model.weights is a/b.pt, of which torchvision says nothing",
        ),
        (model(weights="V9", preprocessing="torchvision"), "model.weights is V9, of which"),
        (
            model(preprocessing="torchvision:V9"),
            "there are no such weights; those that torchvision publishes for resnet18: IMAGENET1K_V1",
        ),
        (
            model(preprocessing="timm"),
            "model.name=resnet18 is a network of torchvision's; set model.preprocessing to null",
        ),
        (model("mine:build", None, "torchvision:IMAGENET1K_V1"), "model.name=mine:build is a network of your own"),
        (model("no_such_net", None, "torchvision"), "publishes for no_such_net: none"),
    ],
)
def test_a_description_that_does_not_exist_is_one_line(params: ModelParams, words: str) -> None:
    assert words in refusal(params)


@needs_timm
def test_a_network_of_timm_without_such_weights_is_one_line() -> None:
    assert "timm publishes for resnet18: a1_in1k, " in refusal(model("timm:resnet18", "x.pt", "timm"))
    how = found(model("timm:resnet18", "x.pt", "timm:a1_in1k")).preprocessing
    assert (how.size, how.resized, how.interpolation) == ((224, 224), (235, 235), "bicubic")
