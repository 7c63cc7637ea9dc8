"""Which preprocessing the keys and the description of the weights make together."""

import importlib.util
import warnings

import pytest
from samples import data_params, fitted

from ptqflow.core.errors import ModelError, ParamsError, PtqflowWarning
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.inputs.preprocessing import resolve_preprocessing, warn_of_other_images
from ptqflow.models.description import describe_weights
from ptqflow.models.params import ModelParams

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an extra")

RESNET18 = {
    "height": 224,
    "width": 224,
    "color": "RGB",
    "resize": "short_side",
    "resized": (256, 256),
    "interpolation": "bilinear",
    "antialias": True,
    "fill": (0, 0, 0),
}


def model(
    name: str = "resnet18", weights: str | None = "IMAGENET1K_V1", preprocessing: str | None = None
) -> ModelParams:
    return ModelParams(name=name, weights=weights, stem="standard", mean=None, std=None, preprocessing=preprocessing)


def resolve(params: ModelParams, **keys: object) -> Preprocessing:
    described = describe_weights(params)
    resolved = resolve_preprocessing(data_params(**keys), params, described)
    warn_of_other_images(resolved, params, described)
    return resolved


def refusal(params: ModelParams, **keys: object) -> str:
    with pytest.raises((ParamsError, ModelError)) as caught:
        resolve(params, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_is_that_of_the_keys_whatever_the_network() -> None:
    for params in (
        model(weights=None),
        model("mine:build", None),
        model("vgg11", "my/weights.pt"),
        model("vgg11", None),
    ):
        assert resolve(params) == fitted(16)
    assert resolve(model(weights=None), image_size=[48, 32], channels=1) == fitted((48, 32), 1)


@pytest.mark.parametrize(
    "params", [model(preprocessing="torchvision"), model(weights="my.pt", preprocessing="torchvision:IMAGENET1K_V1")]
)
def test_the_description_of_the_weights_is_taken_whole(params: ModelParams) -> None:
    assert resolve(params, image_size=None).model_dump() == RESNET18
    agreeing = {
        "image_size": [224, 224],
        "resize": "short_side",
        "crop": 0.875,
        "interpolation": "bilinear",
        "antialias": True,
    }
    assert resolve(params, **agreeing).model_dump() == RESNET18


def test_a_file_with_the_name_that_torchvision_published_it_under_is_those_weights() -> None:
    params = model(weights="downloads/resnet18-f37072fd.pth", preprocessing="torchvision")
    assert resolve(params, image_size=None).model_dump() == RESNET18
    with pytest.warns(PtqflowWarning, match=r"resnet18\.IMAGENET1K_V1 expect other images"):
        resolve(model(weights="resnet18-f37072fd.pth"))
    assert resolve(model(weights="resnet18-f37072fd-fine-tuned.pth")) == fitted(16)


def test_another_network_whose_weights_expect_the_same_leaves_the_card_unchanged_so_that_nothing_is_fetched() -> None:
    first = resolve(model("resnet18", preprocessing="torchvision"), image_size=None)
    assert resolve(model("vgg11", preprocessing="torchvision"), image_size=None) == first
    assert resolve(model("resnet50", "IMAGENET1K_V2", "torchvision"), image_size=None) != first


def test_keys_that_state_what_the_weights_expect_make_no_warning_and_others_one_that_names_both() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(model(), image_size=224, resize="short_side", crop=256).model_dump() == RESNET18
    with pytest.warns(PtqflowWarning) as caught:
        assert resolve(model(), image_size=224) == fitted(224)
    (line,) = (str(warning.message) for warning in caught)
    assert "torchvision's weights resnet18.IMAGENET1K_V1 expect" in line
    assert "(short side resized to 256 (bilinear), cropped at the center to 224x224, RGB)" in line
    assert "(cropped at the center to the proportions of 224x224, resized to 224x224 (bilinear), RGB)" in line
    assert "model.preprocessing=torchvision, with the keys that contradict it null" in line


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"image_size": 32},
            "data.image_size is 32, not 224, as model.preprocessing=torchvision (torchvision's weights",
        ),
        ({"image_size": [224, 200]}, "data.image_size is [224, 200], not 224"),
        ({"resize": "letterbox"}, "data.resize is letterbox, not short_side"),
        ({"crop": 0.5}, "data.crop is 0.5, not 256"),
        ({"crop": 232}, "data.crop is 232, not 256"),
        ({"interpolation": "lanczos"}, "set data.interpolation to null, or model.preprocessing to null"),
        ({"antialias": False}, "data.antialias is false, not true"),
        ({"channels": 1}, "data.channels is 1, not 3, as "),
        ({"channel_order": "BGR"}, "data.channel_order is BGR, not RGB"),
        ({"resize": "squash", "crop": 300, "channels": 4}, "set data.resize, data.crop to null and data.channels to 3"),
    ],
)
def test_a_key_that_contradicts_the_description_is_one_line_with_both_and_a_remedy(
    keys: dict[str, object], words: str
) -> None:
    assert words in refusal(model(preprocessing="torchvision"), **({"image_size": None} | keys))


@pytest.mark.parametrize("preprocessing", [None, "torchvision"])
@pytest.mark.parametrize(
    ("mean", "std", "input_range"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255),
        (None, None, 255),
    ],
)
def test_a_mean_and_std_that_the_weights_expect_are_no_contradiction(
    preprocessing: str | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, input_range: int
) -> None:
    keys = {"preprocessing": preprocessing, "mean": mean, "std": std, "input_range": input_range}
    params = model().model_copy(update=keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(params, image_size=224, resize="short_side", crop=256).model_dump() == RESNET18


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.5,)])
def test_a_mean_that_contradicts_the_weights_is_one_line_or_a_warning_with_both(mean: tuple[float, ...]) -> None:
    params = model().model_copy(update={"mean": mean, "std": mean})
    both = f"mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], not mean {list(mean)}, std {list(mean)}"
    described = params.model_copy(update={"preprocessing": "torchvision"})
    assert f"{both}; set mean and std to null, or model.preprocessing to null" in refusal(described, image_size=None)
    with pytest.warns(PtqflowWarning) as caught:
        resolve(params, image_size=224, resize="short_side", crop=256)
    assert f"expect other values than the keys of model state: {both}, which may cost accuracy" in str(
        caught[0].message
    )


def test_a_size_that_is_stated_nowhere_is_one_line() -> None:
    assert "data.image_size is null, and so is model.preprocessing" in refusal(model(weights=None), image_size=None)
