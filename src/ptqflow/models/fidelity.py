"""How near the logits of a network are to those of another."""

import torch
from torch import Tensor


def median_sqnr_db(logits: Tensor, reference: Tensor) -> float:
    """Return the median over the images of the power of the reference over that of the difference, in decibels.

    Unlike the ratio over all images together, it is not decided by a few images with large logits.

    Args:
        logits: (N, classes), N > 0.
        reference: of the same shape.

    Returns:
        Infinity where at least half of the images have equal logits.
    """
    return float(image_sqnr_db(logits, reference).median())


def image_sqnr_db(logits: Tensor, reference: Tensor) -> Tensor:
    """Return for each image the power of the reference over that of the difference, in decibels.

    Args:
        logits: (N, classes).
        reference: of the same shape.

    Returns:
        float64 (N,); infinity where the logits are equal.
    """
    exact, noise = reference.double(), logits.double() - reference.double()
    ratios = exact.square().sum(1) / noise.square().sum(1)
    return 10 * torch.log10(ratios.nan_to_num(torch.inf, torch.inf))
