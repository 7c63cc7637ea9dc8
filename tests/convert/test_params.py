"""The sections `convert` and `sensitivity`."""

import json
import math
from pathlib import Path

import pytest
from fresh_process import convert_params

from ptqflow.convert.params import ConvertParams, SensitivityParams
from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.1, "convert.max_drop is -0.1: input should be greater than or equal to 0"),
        (101, "convert.max_drop is 101: input should be less than or equal to 100"),
        ("1 %", "convert.max_drop is '1 %': input should be a valid number"),
        (True, "convert.max_drop is True: input should be a valid number"),
        ([1], "convert.max_drop is [1]: input should be a valid number"),
        (math.inf, "convert.max_drop is inf: input should be "),
    ],
)
def test_a_bad_budget_is_one_line(value: object, words: str) -> None:
    section = convert_params().model_dump(mode="json") | {"max_drop": value}
    Path("params.yaml").write_text(json.dumps({"convert": section}).replace("Infinity", ".inf"))

    with pytest.raises(ParamsError) as refusal:
        read_params("convert", ConvertParams)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", ["auto", True, False])
def test_biases_are_corrected_where_it_helps_always_or_never(value: object) -> None:
    assert convert_params(bias_correction=value).bias_correction == value


@pytest.mark.parametrize("value", ["yes", 2, None, []])
def test_another_value_of_bias_correction_is_one_line(value: object) -> None:
    section = convert_params().model_dump(mode="json") | {"bias_correction": value}
    Path("params.yaml").write_text(json.dumps({"convert": section}))

    with pytest.raises(ParamsError) as refusal:
        read_params("convert", ConvertParams)
    assert str(refusal.value) == (
        f"params.yaml: convert.bias_correction is {value!r}: input should be 'auto', True or False"
    )


@pytest.mark.parametrize("images", [0, -1, 1.5, "all"])
def test_a_bad_number_of_images_is_refused(images: object) -> None:
    Path("params.yaml").write_text(json.dumps({"sensitivity": {"images": images}}))

    with pytest.raises(ParamsError, match=r"^params.yaml: sensitivity.images is "):
        read_params("sensitivity", SensitivityParams)
