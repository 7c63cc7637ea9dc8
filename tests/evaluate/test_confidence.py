import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from ptqflow.core.figures import ReliabilityBin
from ptqflow.evaluate.confidence import bin_by_confidence, expected_calibration_error, mean_confidence, mean_kl


def error_of(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    return expected_calibration_error(bin_by_confidence("fp32", confidence, right))


def binned_by_hand(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the formula of the paper: the sum over bins of share of the images times |accuracy - confidence|."""
    error = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_calibration_error_is_the_papers_formula() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.1, 1, 2000)
    right = random.uniform(size=2000) < confidence**2

    assert error_of(confidence, right) == pytest.approx(binned_by_hand(confidence, right), abs=1e-6)
    bins = bin_by_confidence("fp32", confidence, right)
    assert mean_confidence(bins) == pytest.approx(confidence.mean(), abs=1e-6)
    assert sum(row.images for row in bins) == 2000
    assert sum(row.images * row.accuracy for row in bins) == pytest.approx(right.sum(), abs=1e-2)


def test_a_worked_example_of_the_calibration_error() -> None:
    # Two images at 0.95 of which one is right, two at 0.55 that are both right: (2·0.45 + 2·0.45) / 4.
    error = error_of(np.array([0.95, 0.95, 0.55, 0.55]), np.array([1, 0, 1, 1], bool))
    assert error == pytest.approx(0.45)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, True, 0.0), (1.0, False, 1.0), (0.2, True, 0.8)])
def test_one_image_alone(confidence: float, right: bool, error: float) -> None:
    assert error_of(np.array([confidence]), np.array([right])) == pytest.approx(error)


def test_bins_without_images_have_no_row_and_the_upper_edge_belongs_to_a_bin() -> None:
    confidence = np.array([5 / 15, 5 / 15 - 1e-9, 5 / 15 + 1e-9, 1.0])
    bins = bin_by_confidence("int8", confidence, np.array([1, 0, 1, 1], bool))
    assert bins == [
        ReliabilityBin(network="int8", images=2, confidence=0.333333, accuracy=0.5),
        ReliabilityBin(network="int8", images=1, confidence=0.333333, accuracy=1.0),
        ReliabilityBin(network="int8", images=1, confidence=1.0, accuracy=1.0),
    ]


def test_divergence_is_scipys_relative_entropy() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 50, 10)) * 3

    expected = entropy(softmax(one, axis=1), softmax(other, axis=1), axis=1).mean()
    assert mean_kl(one, other) == pytest.approx(expected, rel=1e-9)


def test_equal_outputs_and_shifted_logits_do_not_diverge() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 4))

    assert mean_kl(logits, logits) == 0
    assert mean_kl(logits, logits + 100) == pytest.approx(0, abs=1e-12)


def test_logits_far_apart_have_a_large_number_and_no_infinity() -> None:
    assert mean_kl(np.array([[0.0, 5000.0]]), np.array([[5000.0, 0.0]])) == pytest.approx(5000)
