"""The result on the terminal: `python -m ptqflow.summary metrics/evaluate.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from ptqflow.evaluate.verdict import verdict

_ROWS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}


def format_summary(metrics: dict[str, Any]) -> str:
    """Return the figures of the three networks as a table; top-1 and top-5 in percent, size in MB (10^6 bytes)."""
    lines = [f"{'':22}{'top-1 %':>9}{'top-5 %':>9}{'loss':>9}{'MB':>9}"]
    for key, title in _ROWS.items():
        row = metrics[key]
        top5 = f"{100 * row['top5']:9.2f}" if "top5" in row else f"{'-':>9}"
        lines.append(f"{title:22}{100 * row['top1']:9.2f}{top5}{row['loss']:9.4f}{row['size_mb']:9.2f}")
    lines.append("")
    if metrics["agreement"] < 1:  # else the verdict says so
        lines.append(f"INT8 predicts what FP32 predicts for {100 * metrics['agreement']:.2f} % of the images.")
    return "\n".join([*lines, verdict(metrics)])


if __name__ == "__main__":
    print(format_summary(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
