import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ptqflow
from ptqflow.summary import format_summary

METRICS = {
    "fp32": {"top1": 0.986111, "top5": 1.0, "loss": 0.038478, "size_mb": 44.776},
    "int8_uncalibrated": {"top1": 0.05, "top5": 0.902778, "loss": 11.703647, "size_mb": 11.312},
    "int8": {"top1": 0.98, "top5": 0.9996, "loss": 0.042257, "size_mb": 11.312},
    "drop": {"top1": 0.006111, "low": -0.001, "high": 0.0125},
    "agreement": 0.991667,
    "paired": {"both_right": 900, "only_fp32_right": 10, "only_int8_right": 4, "both_wrong": 86, "p": 0.18},
}

TABLE = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.61   100.00   0.0385  44.78
INT8, not calibrated     5.00    90.28  11.7036  11.31
INT8, calibrated        98.00    99.96   0.0423  11.31

INT8 predicts what FP32 predicts for 99.17 % of the images.
The drop of 0.61 points is within noise, p = 0.18 (95 % interval -0.10 to 1.25)."""

TABLE_WITHOUT_TOP5 = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.61        -   0.0385  44.78
INT8, not calibrated     5.00        -  11.7036  11.31
INT8, calibrated        98.00        -   0.0423  11.31

INT8 predicts what FP32 predicts for 99.17 % of the images.
The drop of 0.61 points is within noise, p = 0.18 (95 % interval -0.10 to 1.25)."""


def without_top5(metrics: dict[str, object]) -> dict[str, object]:
    return {
        name: {key: figure for key, figure in value.items() if key != "top5"} if isinstance(value, dict) else value
        for name, value in metrics.items()
    }


@pytest.mark.parametrize(
    ("metrics", "table"), [(METRICS, TABLE), (without_top5(METRICS), TABLE_WITHOUT_TOP5)], ids=["top-5", "no top-5"]
)
def test_the_three_networks_are_shown_side_by_side(metrics: dict[str, object], table: str) -> None:
    assert format_summary(metrics) == table


def test_equal_predictions_are_reported_once() -> None:
    table = format_summary(METRICS | {"agreement": 1.0})
    assert table.count("INT8 predicts") == 1
    assert "every one of the 1,000 test images: no drop, p = 0.18" in table


def test_the_module_prints_the_table_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text(json.dumps(METRICS))

    printed = subprocess.run(
        [sys.executable, "-m", "ptqflow.summary", "evaluate.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(ptqflow.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert printed.stdout == TABLE + "\n"
