"""How sure a network is, and how rightly so; functions of probabilities, without torch."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

_BINS = 15  # of equal width, as in the paper


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean distance between confidence and accuracy over 15 equal bins of confidence, a fraction.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. A bin reaches up to and with its upper edge.

    Args:
        confidence: (N,), probability of the predicted class.
        right: (N,), whether it is the true one.
    """
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    excess = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(excess).sum() / len(confidence))


def mean_kl(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    """Return the mean Kullback-Leibler divergence of the candidate's outputs from the reference's, in nats.

    Args:
        reference: logits (N, classes), finite.
        candidate: logits (N, classes), finite.
    """
    p, q = log_softmax(reference, axis=1), log_softmax(candidate, axis=1)
    return max(float((np.exp(p) * (p - q)).sum(axis=1).mean()), 0.0)
