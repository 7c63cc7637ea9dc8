"""The result on the terminal: `python -m ptqflow.summary`, at the root of the repository."""

import sys

from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import EvaluationFigures, read_evaluation_figures
from ptqflow.core.text_table import format_text_table
from ptqflow.evaluate.verdict import verdict

_ROWS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}


def format_summary(figures: EvaluationFigures) -> str:
    """Return a table of the three networks and the verdict; top-1 and top-5 in percent, size in MB (10^6 bytes)."""
    rows = [("", "top-1 %", "top-5 %", "loss", "MB")]
    for key, title in _ROWS.items():
        row = getattr(figures, key)
        top5 = "-" if row.top5 is None else f"{100 * row.top5:.2f}"
        rows.append((title, f"{100 * row.top1:.2f}", top5, f"{row.loss:.4f}", f"{row.size_mb:.2f}"))
    lines = [format_text_table(rows, "<>>>>"), ""]
    if figures.agreement < 1:  # else the verdict says so
        lines.append(f"INT8 predicts the same class as FP32 for {100 * figures.agreement:.2f} % of the images.")
    return "\n".join([*lines, verdict(figures)])


if __name__ == "__main__":
    try:
        print(format_summary(read_evaluation_figures()))
    except ArtifactError as error:
        sys.exit(str(error))
