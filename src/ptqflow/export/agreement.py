"""Whether an exported file is as near to FP32 as the INT8 network of torch; NumPy alone, without torch.

Two INT8 computations that each differ from FP32 on a few images differ from one another on about as many, and neither
is the truth. So a file is compared with FP32, as torch's network is, and may not be worse.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SQNR_MARGIN_DB = 3.0
"""How much less an exported file's SQNR to FP32 may be than torch's: noise of twice the power."""
ROUNDING_DB = 60.0
"""SQNR beyond which no INT8 step can be wrong: what is left is float32 rounding, in which runtimes differ."""
_SIGMAS = 3.09
"""One-sided quantile of the normal distribution at 99.9 %."""


@dataclass(frozen=True)
class Paired:
    """Of the images on which one of two networks alone is right, by labels or by what FP32 predicts."""

    lost: int
    """The reference is right and the candidate is not."""
    gained: int
    """The reverse."""

    def accepted(self, images: int, margin: float) -> float:
        """Return the largest net loss that is accepted of so many images.

        It is the margin, or what chance makes of an equivalent network: if rounding changes `n` images, each is lost
        or gained with probability 1/2, and the net loss has a standard deviation of sqrt(n). 3.09 of them let an
        equivalent network fail with a probability of about 0.1 % at most.
        """
        return max(margin * images, _SIGMAS * math.sqrt(self.lost + self.gained))


@dataclass(frozen=True)
class Agreement:
    """How the predictions of a candidate compare with those of a reference, on test images."""

    images: int
    different: int
    """That have another class predicted than by the reference."""
    labels: Paired | None
    """By the labels; None without."""
    fp32: Paired
    """By what the FP32 network predicts."""
    with_fp32: float
    """Share of the images for which the candidate predicts what FP32 predicts."""

    @property
    def share(self) -> float:
        """Share of the images for which both predict the same class."""
        return 1 - self.different / self.images


def compare(
    predicted: NDArray[np.integer],
    reference: NDArray[np.integer],
    fp32: NDArray[np.integer],
    labels: NDArray[np.integer] | None,
) -> Agreement:
    """Count how a candidate differs from a reference, both INT8.

    Args:
        predicted: classes (N,) that the candidate predicts, N > 0.
        reference: that the reference predicts.
        fp32: that the FP32 network predicts.
        labels: true ones; None if they are not known.
    """
    return Agreement(
        images=len(predicted),
        different=int((predicted != reference).sum()),
        labels=None if labels is None else _paired(predicted, reference, labels),
        fp32=_paired(predicted, reference, fp32),
        with_fp32=float((predicted == fp32).mean()),
    )


def _paired(predicted: NDArray[np.integer], reference: NDArray[np.integer], truth: NDArray[np.integer]) -> Paired:
    right, reference_right = predicted == truth, reference == truth
    return Paired(lost=int((reference_right & ~right).sum()), gained=int((right & ~reference_right).sum()))


def find_loss(sqnr_db: float, torch_sqnr_db: float) -> str | None:
    """Return what is wrong with the logits of an exported file, None if they are as near to FP32's as torch's.

    Labels alone would pass a file that computes some of its steps wrongly, on images that are easy to classify.

    Args:
        sqnr_db: of the file's logits to FP32's, the median over the test images.
        torch_sqnr_db: of the INT8 network of torch.
    """
    if sqnr_db >= min(torch_sqnr_db, ROUNDING_DB) - SQNR_MARGIN_DB:
        return None
    return (
        f"has logits with an SQNR of {sqnr_db:.1f} dB to FP32's, the median of the test images, where torch's have "
        f"{torch_sqnr_db:.1f} dB; {SQNR_MARGIN_DB:g} dB less are accepted"
    )


def find_fault(agreement: Agreement, margin: float) -> str | None:
    """Return what is wrong with the predictions of a candidate, None if they are no worse than the reference's.

    Non-inferiority, twice: the net loss of images predicted as FP32 does, and that of images predicted correctly, is
    within `Paired.accepted`. Without labels, once.

    Args:
        agreement: of the candidate with torch's INT8 network.
        margin: `export.margin`.
    """
    for paired, what in ((agreement.fp32, "are no longer predicted as FP32 does"), (agreement.labels, "are lost")):
        if paired is None:
            continue
        accepted = paired.accepted(agreement.images, margin)
        if paired.lost - paired.gained > accepted:
            return (
                f"is worse than torch's INT8 network: of {agreement.images} test images {paired.lost} {what} and "
                f"{paired.gained} gained, and a net loss of {math.floor(accepted)} at most is accepted"
            )
    return None
