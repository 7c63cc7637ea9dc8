"""How far the predictions of a runtime may differ from those of torch; NumPy alone, without torch."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptqflow.runtime.runtimes import Runtime

SQNR_MARGIN_DB = 3.0
"""How much less an exported file's SQNR to FP32 may be than torch's: noise of twice the power."""
_ROUNDING_DB = 60.0
"""SQNR beyond which no INT8 step can be wrong: what is left is float32 rounding, in which runtimes differ."""
OPENVINO_AGREEMENT = 0.98
"""The most that is required of OpenVINO, which adds a residual before it rounds, whatever the graph says."""
_SIGMAS = 3.09
"""One-sided quantile of the normal distribution at 99.9 %."""


@dataclass(frozen=True)
class Agreement:
    """Counts of test images on which two networks are compared."""

    images: int
    different: int
    """That have another class predicted than by the reference."""
    lost: int
    """That the reference classifies correctly and the candidate does not."""
    gained: int
    """The reverse."""

    @property
    def share(self) -> float:
        """Share of the images with the same class predicted."""
        return 1 - self.different / self.images


def compare(predicted: NDArray[np.integer], reference: NDArray[np.integer], labels: NDArray[np.integer]) -> Agreement:
    """Count how two networks differ, from their predicted classes (N,) and the labels (N,), N > 0."""
    right, reference_right = predicted == labels, reference == labels
    return Agreement(
        images=len(labels),
        different=int((predicted != reference).sum()),
        lost=int((reference_right & ~right).sum()),
        gained=int((right & ~reference_right).sum()),
    )


def find_loss(sqnr_db: float, torch_sqnr_db: float) -> str | None:
    """Return what is wrong with the logits of an exported file, None if they are as near to FP32's as torch's.

    Labels alone would pass a file that computes some of its steps wrongly, on images that are easy to classify.

    Args:
        sqnr_db: of the file's logits to FP32's, the median over the test images.
        torch_sqnr_db: of the INT8 network of torch.
    """
    if sqnr_db >= min(torch_sqnr_db, _ROUNDING_DB) - SQNR_MARGIN_DB:
        return None
    return (
        f"has logits with an SQNR of {sqnr_db:.1f} dB to FP32's, the median of the test images, where torch's have "
        f"{torch_sqnr_db:.1f} dB; {SQNR_MARGIN_DB:g} dB less are accepted"
    )


def find_fault(agreement: Agreement, runtime: Runtime, min_agreement: float) -> str | None:
    """Return what is wrong with the predictions of a runtime, None if they are equivalent to torch's.

    Two conditions, both on the test images at hand, where predictions are exact and no sample:

    - Agreement: the predicted class is the same for `min_agreement` of the images, for OpenVINO for 98 % at most. A
      single image may always differ: of 100, it alone would be 1 %.
    - Non-inferiority: the net loss, images lost minus images gained, is at most `1 - min_agreement` of the images. So
      top-1 falls by 0.5 points at most at the default of 0.995, in OpenVINO too. In small test sets chance alone may
      exceed that: if rounding changes the correctness of `n` images in an equivalent network, each is lost or gained
      with probability 1/2, and the net loss has a standard deviation of sqrt(n). A net loss of up to 3.09 of them is
      therefore accepted, so that an equivalent network fails with a probability of about 0.1 % at most.

    Args:
        agreement: of the runtime with torch's INT8 network.
        runtime: which.
        min_agreement: `export.min_agreement`.
    """
    required = min(min_agreement, OPENVINO_AGREEMENT) if runtime == "openvino" else min_agreement
    net_loss = agreement.lost - agreement.gained
    accepted = max((1 - min_agreement) * agreement.images, _SIGMAS * math.sqrt(agreement.lost + agreement.gained))
    found = f"{agreement.lost} images are lost and {agreement.gained} gained"
    if agreement.different > max(1, (1 - required) * agreement.images):
        return (
            f"predicts what torch predicts for {agreement.share:.2%} of {agreement.images} test images, and "
            f"{required:.2%} are required; {found}"
        )
    if net_loss > accepted:
        return (
            f"is less accurate than torch: of {agreement.images} test images {found}, and a net loss of "
            f"{math.floor(accepted)} at most is accepted"
        )
    return None
