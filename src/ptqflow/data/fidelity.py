"""How near the logits of a network are to those of another; NumPy, which takes torch's CPU tensors as well."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptqflow.data.batching import in_blocks


def median_sqnr_db(logits: ArrayLike, reference: ArrayLike) -> float:
    """Return the median over the images of the power of the reference over that of the difference, in decibels.

    Unlike the ratio over all images together, it is not decided by a few images with large logits.

    Args:
        logits: (N, classes), N > 0.
        reference: of the same shape.

    Returns:
        Infinity where at least half of the images have equal logits; of an even number of images the lower middle one.
    """
    return sqnr_db_quantile(logits, reference, 0.5)


def sqnr_db_quantile(logits: ArrayLike, reference: ArrayLike, share: float) -> float:
    """Return the SQNR in decibels that this share of the images, 0 to 1, do not exceed: that of one of them.

    Args:
        logits: (N, classes), N > 0.
        reference: of the same shape.
        share: such as 0.05.
    """
    return float(np.quantile(image_sqnr_db(logits, reference), share, method="lower"))


def image_sqnr_db(logits: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return for each image the power of the reference over that of the difference, in decibels.

    Args:
        logits: (N, classes).
        reference: of the same shape.

    Returns:
        (N,); infinity where the logits are equal.
    """
    return in_blocks(_image_sqnr_db, np.asarray(logits), np.asarray(reference))


def sqnr_db(logits: ArrayLike, reference: ArrayLike) -> float:
    """Return the SQNR in decibels over all images together, infinity without a difference.

    Args:
        logits: (N, …).
        reference: of the same shape.
    """
    rows = (np.asarray(values).reshape(len(np.asarray(values)), -1) for values in (logits, reference))
    signal, noise = in_blocks(_powers, *rows).sum(axis=0)
    return float(10 * np.log10(signal / noise)) if noise else np.inf


def _powers(logits: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the power of the reference and of the difference for each image, (N, 2)."""
    exact = reference.astype(np.float64)
    return np.stack([np.square(exact).sum(axis=1), np.square(logits - exact).sum(axis=1)], axis=1)


def _image_sqnr_db(logits: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    signal, noise = _powers(logits, reference).T
    ratios = np.divide(signal, noise, out=np.full_like(signal, np.inf), where=noise > 0)
    with np.errstate(divide="ignore"):  # of images without a signal
        decibels: NDArray[np.float64] = 10 * np.log10(ratios)
    return decibels
