"""The card of a normalization."""

import json

import pytest
from pydantic import ValidationError

from ptqflow.core.normalization import Normalization

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def test_it_comes_back_from_json() -> None:
    text = NORMALIZATION.model_dump_json()

    assert json.loads(text) == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    assert Normalization.model_validate_json(text) == NORMALIZATION


@pytest.mark.parametrize("mean", [[0.5, 0.4], [0.5, 0.4, "0.3"], 0.5, None])
def test_three_numbers_are_needed(mean: object) -> None:
    with pytest.raises(ValidationError, match="mean"):
        Normalization.model_validate({"mean": mean, "std": [0.2, 0.25, 0.3]})


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        NORMALIZATION.mean = (0.0, 0.0, 0.0)  # type: ignore[misc]
