"""Figures of logits against those of FP32, as cells of a table."""

import numpy as np
from numpy.typing import NDArray

from ptqflow.data.dataset import Split
from ptqflow.data.fidelity import median_sqnr_db, sqnr_db, sqnr_db_quantile
from ptqflow.evaluate.metrics import agreement

Logits = NDArray[np.float32]
"""(N, classes)."""

HEADS = ("agreement %", "SQNR dB, median", "5 % quantile", "pooled")


def evenly(split: Split, count: int | None) -> Split:
    """Return so many images at even distances, all without a number: they are often stored class by class."""
    if count is None or count >= len(split):
        return split
    return split[:: len(split) // count][:count]


def fidelity_cells(logits: Logits, reference: Logits) -> list[str]:
    """Return agreement, and of the SQNR the median over the images, the 5 % quantile and that of all together."""
    ratios = (median_sqnr_db(logits, reference), sqnr_db_quantile(logits, reference, 0.05), sqnr_db(logits, reference))
    return [
        f"{100 * agreement(logits, reference):.2f}",
        *(f"{ratio:.1f}" if ratio < np.inf else "" for ratio in ratios),
    ]
