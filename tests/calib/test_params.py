"""The section `calib`."""

import pytest
from pydantic import ValidationError

from ptqflow.calib.params import CalibParams


@pytest.mark.parametrize("key", ["batches", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", None])
def test_numbers_of_images_are_whole_and_positive(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        CalibParams.model_validate({"batches": 1, "batch_size": 1, "seed": 0} | {key: value})


@pytest.mark.parametrize("key", ["processes", "threads"])
def test_what_no_result_depends_on_is_no_key_of_the_section(key: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        CalibParams.model_validate({"batches": 1, "batch_size": 1, "seed": 0, key: 1})
