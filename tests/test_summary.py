import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation import evaluation_figures
from finished_run import file_check, write_benchmark
from manifests import make_manifest

import ptqflow
from ptqflow.core.figures import (
    BENCHMARK,
    FILE_CHECKS,
    OBSERVED_RANGES,
    QUANTIZED_RANGES,
    SEARCH,
    SENSITIVITY,
    EvaluationFigures,
    SensitivityRow,
)
from ptqflow.core.paths import EXPORT, FIGURES
from ptqflow.runtime.manifest import write_manifest
from ptqflow.summary import format_summary

ALL = evaluation_figures(fp32=0.986, int8=0.98, uncalibrated=0.05, agreement=0.991667)

TABLE = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.60   100.00   0.0400  44.78
INT8, not calibrated     5.00    90.00  11.7000  11.31
INT8, calibrated        98.00    99.96   0.0420  11.31

INT8 predicts the same class as FP32 for 99.17 % of the images.
The drop of 0.60 points is statistically significant, p = 0.031 (95 % interval 0.05 to 0.60 points)."""

SMALLER = "INT8 is 4.0 times smaller than FP32."
TABLE_WITHOUT_TOP5 = """\
                      top-1 %  top-5 %     loss     MB
FP32                    98.60        -   0.0400  44.78
INT8, not calibrated     5.00        -  11.7000  11.31
INT8, calibrated        98.00        -   0.0420  11.31

INT8 predicts the same class as FP32 for 99.17 % of the images.
The drop of 0.60 points is statistically significant, p = 0.031 (95 % interval 0.05 to 0.60 points)."""


def without_top5(figures: EvaluationFigures) -> EvaluationFigures:
    names = ("fp32", "int8_uncalibrated", "int8")
    return figures.model_copy(update={name: getattr(figures, name).model_copy(update={"top5": None}) for name in names})


@pytest.mark.parametrize(
    ("figures", "table"), [(ALL, TABLE), (without_top5(ALL), TABLE_WITHOUT_TOP5)], ids=["top-5", "no top-5"]
)
def test_the_three_networks_are_shown_side_by_side(figures: EvaluationFigures, table: str) -> None:
    assert format_summary(figures) == f"{table}\n{SMALLER}"


def test_each_exported_int8_file_is_compared_with_fp32() -> None:
    checks = [
        file_check("int8.torchscript.pt", "torchscript"),
        file_check("int8.onnx", "onnxruntime"),
        file_check("fp32.onnx", "onnxruntime"),
        file_check("int8.onnx", "openvino", median_sqnr_db=None),
    ]
    assert format_summary(ALL, checks) == (
        f"{TABLE}\n"
        "int8.onnx in onnxruntime: top-1 85.00 %, predicts the same class as FP32 for 95.00 %, SQNR 31.5 dB.\n"
        "int8.onnx in openvino: top-1 85.00 %, predicts the same class as FP32 for 95.00 %.\n"
        f"{SMALLER}"
    )


def test_what_int8_gains_is_of_the_runtime_that_classifies_most_images_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_benchmark()
    assert format_summary(ALL, timed=BENCHMARK.read()).endswith(
        "INT8 is 4.0 times smaller than FP32 and 2.0 times as fast, in onnxruntime with batches of 1."
    )


def test_equal_predictions_are_reported_once() -> None:
    table = format_summary(evaluation_figures(fp32=0.98, int8=0.98, agreement=1.0))
    assert table.count("the same class") == 1
    assert "INT8 and FP32 predict the same class for all of the 1,000 test images: no drop, p = 1." in table


def summarize(folder: Path, figures: str) -> "subprocess.CompletedProcess[str]":
    """Run the module at the root of a repository with these figures."""
    file = folder / FIGURES
    file.parent.mkdir(parents=True)
    file.write_text(figures)
    with contextlib.chdir(folder):
        FILE_CHECKS.write([file_check("int8.onnx", "onnxruntime")])
        for table in (OBSERVED_RANGES, QUANTIZED_RANGES, SEARCH):
            table.write([])
        write_manifest(EXPORT, make_manifest({}))
        SENSITIVITY.write([SensitivityRow(module="conv1", sqnr_db=12.5, drop=0.01)])
    return subprocess.run(
        [sys.executable, "-m", "ptqflow", "summary"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(ptqflow.__file__).parents[1])},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_module_prints_the_table_of_the_last_run(tmp_path: Path) -> None:
    assert summarize(tmp_path, ALL.model_dump_json()).stdout == (
        f"{TABLE}\n"
        "Most is lost in conv1, whose output has an SQNR of 12.5 dB with that module alone quantized. "
        "Next: `dvc exp run -S 'convert.keep_fp32=[conv1]'`, or `-S convert.max_drop=0.3`, which keeps as many modules "
        "FP32 as that takes.\n"
        "int8.onnx in onnxruntime: top-1 85.00 %, predicts the same class as FP32 for 95.00 %, SQNR 31.5 dB.\n"
        f"{SMALLER}\n"
    )


def locked(read: str) -> dict[str, object]:
    """What dvc.lock has after `convert` wrote INT8 as `new`, and two stages read it as it was then."""
    stages = {name: {"deps": [{"path": "models/int8", "md5": read, "size": 1}]} for name in ("sensitivity", "export")}
    return {"stages": {"convert": {"outs": [{"path": "models/int8", "md5": "new", "size": 1}]}, **stages}}


@pytest.mark.parametrize(("read", "of_this_network"), [("new", True), ("old", False)])
def test_files_and_layers_of_an_earlier_network_are_left_out(tmp_path: Path, read: str, of_this_network: bool) -> None:
    (tmp_path / "dvc.lock").write_text(json.dumps(locked(read)))
    printed = summarize(tmp_path, ALL.model_dump_json()).stdout
    assert ("Most is lost in conv1" in printed) == of_this_network
    assert ("int8.onnx in onnxruntime" in printed) == of_this_network


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "[]", "stages: [\n"])
def test_a_lock_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    result = summarize(tmp_path, ALL.model_dump_json())
    assert result.stderr == (
        "ptqflow: dvc.lock is damaged: restore it with `git checkout dvc.lock`, then run `dvc repro`\n"
    )


def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    result = summarize(tmp_path, ALL.model_dump_json()[:100])
    assert result.returncode == 1
    assert result.stderr.startswith("ptqflow: data/predictions/figures.json: the file: Invalid JSON")
    assert result.stderr.endswith("run `ptqflow repair`, then `dvc repro`\n")
