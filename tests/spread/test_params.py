"""The section `calib_spread`."""

from pathlib import Path

import pytest

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.spread.params import CalibSpreadParams


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0], batches: [1]", "calib_spread.seeds is"),
        ("seeds: [0, 0], batches: [1]", "holds a number twice"),
        ("seeds: [0, 1], batches: []", "calib_spread.batches is"),
        ("seeds: [0, 1], batches: [0]", "greater than 0"),
        ("seeds: [0, -1], batches: [1]", "greater than or equal to 0"),
        ("seeds: [0, 1]", "calib_spread.batches is missing"),
    ],
)
def test_params_that_make_no_comparison_are_refused(text: str, message: str) -> None:
    Path("params.yaml").write_text(f"calib_spread: {{{text}}}\n")
    with pytest.raises(ParamsError, match=message):
        read_params("calib_spread", CalibSpreadParams)
