"""Confidence of a network: calibration and divergence; functions of probabilities, without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ptqflow.core.figures import DIGITS, ReliabilityBin
from ptqflow.data.batching import in_blocks

_BINS = 15  # of equal width, as in the paper


def bin_by_confidence(network: str, confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """Return images, mean confidence and accuracy of each of 15 equal bins of confidence that has images.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. A bin includes its upper edge.

    Args:
        network: name for the rows.
        confidence: (N,), probability of the predicted class.
        right: (N,), whether the predicted class is the true one.
    """
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    return [
        ReliabilityBin(
            network=network,
            images=int(inside.sum()),
            confidence=round(float(confidence[inside].mean()), DIGITS),
            accuracy=round(float(right[inside].mean()), DIGITS),
        )
        for inside in (bins == i for i in np.unique(bins))
    ]


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean over all images of |accuracy - confidence| of their bin, a fraction."""
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / sum(one.images for one in bins)


def mean_confidence(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean over all images of the probability of the predicted class."""
    return sum(one.images * one.confidence for one in bins) / sum(one.images for one in bins)


def mean_kl(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> float:
    """Return the mean Kullback-Leibler divergence of the candidate's outputs from the reference's, in nats.

    Args:
        reference: logits (N, classes), finite.
        candidate: logits (N, classes), finite.
    """
    return max(float(in_blocks(_kl, reference, candidate).mean()), 0.0)


def _kl(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> NDArray[np.float64]:
    p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (reference, candidate))
    divergence: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return divergence
