import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation import evaluate_metrics

import ptqflow
from ptqflow.core.figures import EvaluateMetrics
from ptqflow.summary import format_summary

METRICS = evaluate_metrics(fp32=0.986, int8=0.98, uncalibrated=0.05, agreement=0.991667)

TABLE = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.60   100.00   0.0400  44.78
INT8, not calibrated     5.00    90.00  11.7000  11.31
INT8, calibrated        98.00    99.96   0.0420  11.31

INT8 predicts the same class as FP32 for 99.17 % of the images.
The drop of 0.60 points is statistically significant, p = 0.031 (95 % interval 0.05 to 0.60 points)."""

TABLE_WITHOUT_TOP5 = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.60        -   0.0400  44.78
INT8, not calibrated     5.00        -  11.7000  11.31
INT8, calibrated        98.00        -   0.0420  11.31

INT8 predicts the same class as FP32 for 99.17 % of the images.
The drop of 0.60 points is statistically significant, p = 0.031 (95 % interval 0.05 to 0.60 points)."""


def without_top5(metrics: EvaluateMetrics) -> EvaluateMetrics:
    names = ("fp32", "int8_uncalibrated", "int8")
    return metrics.model_copy(update={name: getattr(metrics, name).model_copy(update={"top5": None}) for name in names})


@pytest.mark.parametrize(
    ("metrics", "table"), [(METRICS, TABLE), (without_top5(METRICS), TABLE_WITHOUT_TOP5)], ids=["top-5", "no top-5"]
)
def test_the_three_networks_are_shown_side_by_side(metrics: EvaluateMetrics, table: str) -> None:
    assert format_summary(metrics) == table


def test_equal_predictions_are_reported_once() -> None:
    table = format_summary(evaluate_metrics(fp32=0.98, int8=0.98, agreement=1.0))
    assert table.count("the same class") == 1
    assert "INT8 and FP32 predict the same class for all of the 1,000 test images: no drop, p = 1." in table


def test_the_module_prints_the_table_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text(METRICS.model_dump_json())

    printed = subprocess.run(
        [sys.executable, "-m", "ptqflow.summary", "evaluate.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(ptqflow.__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert printed.stdout == TABLE + "\n"


def test_a_file_with_conflict_markers_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n")
    result = subprocess.run(
        [sys.executable, "-m", "ptqflow.summary", "evaluate.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(ptqflow.__file__).parents[1])},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        "evaluate.json holds conflict markers of git: resolve the conflict, then run `dvc repro`\n"
    )
