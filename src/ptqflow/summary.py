"""The result on the terminal: `python -m ptqflow.summary metrics/evaluate.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from ptqflow.core.text_table import format_text_table
from ptqflow.evaluate.verdict import verdict

_ROWS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}


def format_summary(metrics: dict[str, Any]) -> str:
    """Return a table of the three networks and the verdict; top-1 and top-5 in percent, size in MB (10^6 bytes).

    Args:
        metrics: content of metrics/evaluate.json.
    """
    rows = [("", "top-1 %", "top-5 %", "loss", "MB")]
    for key, title in _ROWS.items():
        row = metrics[key]
        top5 = f"{100 * row['top5']:.2f}" if "top5" in row else "-"
        rows.append((title, f"{100 * row['top1']:.2f}", top5, f"{row['loss']:.4f}", f"{row['size_mb']:.2f}"))
    lines = [format_text_table(rows, "<>>>>"), ""]
    if metrics["agreement"] < 1:  # else the verdict says so
        lines.append(f"INT8 predicts what FP32 predicts for {100 * metrics['agreement']:.2f} % of the images.")
    return "\n".join([*lines, verdict(metrics)])


if __name__ == "__main__":
    print(format_summary(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
