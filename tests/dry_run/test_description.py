from importlib.util import find_spec

import miniature
import pytest
from miniature import DATASET_CARD

from ptqflow.core.errors import ParamsError
from ptqflow.core.normalization import Normalization
from ptqflow.dry_run.description import describe_model
from ptqflow.models.params import ModelParams


@pytest.mark.parametrize(
    ("given", "expected_normalization"),
    [
        ((None, None), ((0.11, 0.22, 0.33), (0.44, 0.55, 0.66))),
        (((0.5, 0.5, 0.5), (0.1, 0.1, 0.1)), ((0.5, 0.5, 0.5), (0.1, 0.1, 0.1))),
        (((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    ],
    ids=["of the data set", "of the weights", "none"],
)
def test_normalization_comes_from_the_params_or_the_data_set(given: tuple, expected_normalization: tuple) -> None:
    mean, std = given
    model = ModelParams(name="miniature:residual", weights=None, stem="standard", mean=mean, std=std)

    card = describe_model(model, DATASET_CARD)

    assert (card.normalization.mean, card.normalization.std) == expected_normalization
    expected = miniature.card().model_dump(exclude={"normalization"})
    assert card.model_dump(exclude={"normalization"}) == expected


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_mean_for_another_number_of_channels_is_one_line(count: int) -> None:
    model = ModelParams(name="resnet18", weights=None, stem="standard", mean=(0.5,) * count, std=(0.5,) * count)
    with pytest.raises(ParamsError) as refusal:
        describe_model(model, DATASET_CARD)
    assert str(refusal.value) == (
        f"model.mean and model.std have {count} values each, and data.channels is 3; set one value per channel, or "
        "change data.channels"
    )


def described(preprocessing: str | None, **changes: object) -> Normalization:
    keys = {"name": "resnet18", "weights": "IMAGENET1K_V1", "stem": "standard", "mean": None, "std": None} | changes
    params = ModelParams.model_validate(keys | {"preprocessing": preprocessing})
    return describe_model(params, DATASET_CARD).normalization


def test_the_description_of_the_weights_brings_mean_and_std_in_the_range_of_the_input() -> None:
    imagenet = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert described("torchvision") == imagenet
    assert described("torchvision", mean=imagenet.mean, std=imagenet.std) == imagenet
    assert described(None) == DATASET_CARD.normalization
    for preprocessing, of in (("torchvision", imagenet), (None, DATASET_CARD.normalization)):
        found = described(preprocessing, input_range=255)
        assert found.input_range == 255
        assert found.mean == pytest.approx([255 * value for value in of.mean])
        assert found.std == pytest.approx([255 * value for value in of.std])


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    ("weights", "mean", "expected"),
    [
        ("augreg_in21k_ft_in1k", None, (0.5, 0.5, 0.5)),
        ("augreg_in21k_ft_in1k", (0.4, 0.4, 0.4), (0.4, 0.4, 0.4)),
        ("my/weights.safetensors", None, (0.11, 0.22, 0.33)),
        (None, None, (0.11, 0.22, 0.33)),
    ],
)
def test_weights_that_timm_publishes_bring_their_normalization_unless_the_params_have_one(
    weights: str | None, mean: tuple[float, ...] | None, expected: tuple[float, ...]
) -> None:
    params = ModelParams(name="timm:vit_tiny_patch16_224", weights=weights, stem="standard", mean=mean, std=mean)
    assert describe_model(params, DATASET_CARD).normalization.mean == expected
