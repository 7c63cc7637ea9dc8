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


@pytest.mark.parametrize("mean", [(0.5,), (0.5,) * 4, ("a", 0.5, 0.5), None])
def test_anything_but_three_numbers_is_refused(mean: object) -> None:
    with pytest.raises(ValidationError, match="mean"):
        Normalization.model_validate({"mean": mean, "std": IMAGENET.std})
