"""Mean and std of a network's input, as cards hold them."""

import json

import pytest
from pydantic import ValidationError

from ptqflow.core.normalization import Normalization

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_json_and_back_is_the_same_and_can_be_a_key() -> None:
    again = Normalization.model_validate(json.loads(IMAGENET.model_dump_json()))
    assert again == IMAGENET
    assert {IMAGENET: 1}[again] == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_there_are_as_many_channels_as_numbers(channels: int) -> None:
    assert Normalization(mean=(0.5,) * channels, std=(0.2,) * channels).channels == channels


@pytest.mark.parametrize("mean", [(0.5,), (0.5,) * 4, ("a", 0.5, 0.5), None])
def test_anything_but_a_number_for_each_std_is_refused(mean: object) -> None:
    with pytest.raises(ValidationError, match="mean"):
        Normalization.model_validate({"mean": mean, "std": IMAGENET.std})


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_numbers_of_channels_that_no_image_has_are_refused(channels: int) -> None:
    with pytest.raises(ValidationError, match="not both 1, 3 or 4"):
        Normalization(mean=(0.5,) * channels, std=(0.2,) * channels)
