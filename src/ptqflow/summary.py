"""The result on the terminal: `python -m ptqflow.summary`, at the root of the repository."""

import sys
from collections.abc import Sequence

from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import FILE_CHECKS, EvaluationFigures, FileCheck, read_evaluation_figures
from ptqflow.core.text_table import format_text_table
from ptqflow.evaluate.verdict import verdict
from ptqflow.runtime.manifest import INT8_ONNX

_ROWS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}


def format_summary(figures: EvaluationFigures, checks: Sequence[FileCheck] = ()) -> str:
    """Return a table of the three networks, the verdict and how the exported INT8 files compare with FP32.

    Top-1 and top-5 are in percent, sizes in MB (10^6 bytes).
    """
    rows = [("", "top-1 %", "top-5 %", "loss", "MB")]
    for key, title in _ROWS.items():
        row = getattr(figures, key)
        top5 = "-" if row.top5 is None else f"{100 * row.top5:.2f}"
        rows.append((title, f"{100 * row.top1:.2f}", top5, f"{row.loss:.4f}", f"{row.size_mb:.2f}"))
    lines = [format_text_table(rows, "<>>>>"), ""]
    if figures.agreement < 1:  # else the verdict says so
        lines.append(f"INT8 predicts the same class as FP32 for {100 * figures.agreement:.2f} % of the images.")
    files = (check for check in checks if check.file == INT8_ONNX)
    return "\n".join([*lines, verdict(figures), *map(_describe_file, files)])


def _describe_file(check: FileCheck) -> str:
    ratio = "" if check.median_sqnr_db is None else f", SQNR {check.median_sqnr_db:.1f} dB"
    return (
        f"{check.file} in {check.runtime}: top-1 {100 * check.top1:.2f} %, predicts the same class as FP32 for "
        f"{100 * check.fp32_agreement:.2f} %{ratio}."
    )


if __name__ == "__main__":
    try:
        print(format_summary(read_evaluation_figures(), FILE_CHECKS.read()))
    except ArtifactError as error:
        sys.exit(str(error))
