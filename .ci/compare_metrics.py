"""Fail unless a run's figures hold against the committed ones; another CPU trains slightly different weights."""

import sys
from pathlib import Path

from ptqflow.core.artifacts import read_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import EvaluateMetrics


def find_problems(committed: EvaluateMetrics, found: EvaluateMetrics) -> list[str]:
    """Return one sentence for each figure that does not hold."""
    problems = [
        f"{name} top-1 is {measured}, committed {expected}"
        for name, measured, expected in (
            ("fp32", found.fp32_top1, committed.fp32_top1),
            ("int8", found.int8_top1, committed.int8_top1),
        )
        if abs(measured - expected) > 0.02
    ]
    if found.int8_top1 - found.uncalibrated_top1 < 0.2:
        problems.append("calibration gains less than 20 points over the uncalibrated control")
    if found.agreement < 0.97:
        problems.append(f"INT8 agrees with FP32 on only {found.agreement} of the images")
    if abs(found.int8_mb - committed.int8_mb) > 0.1:
        problems.append(f"the INT8 model has {found.int8_mb} MB")
    return problems


try:
    committed, found = (read_card(Path(file), EvaluateMetrics) for file in sys.argv[1:3])
except ArtifactError as error:
    sys.exit(str(error))
sys.exit("; ".join(find_problems(committed, found)) or None)
