"""Two classifiers on the same images: what the difference between them is, and whether it is more than chance.

`reference` and `candidate` are the two, such as FP32 and INT8; the drop is what the candidate loses. Functions of
counts and of (N,) arrays, without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
_CONFIDENCE = 0.95
_SEED = 0


@dataclass(frozen=True)
class Pairs:
    """Images by which of the two classifiers is right about them."""

    both_right: int
    only_reference_right: int
    only_candidate_right: int
    both_wrong: int

    @property
    def images(self) -> int:
        """How many there are."""
        return self.both_right + self.only_reference_right + self.only_candidate_right + self.both_wrong

    @property
    def drop(self) -> float:
        """Accuracy of the reference minus that of the candidate, a fraction; there must be an image."""
        return (self.only_reference_right - self.only_candidate_right) / self.images

    @property
    def is_equal(self) -> bool:
        """Whether both are right about the same images."""
        return not self.only_reference_right and not self.only_candidate_right


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval."""

    low: float
    high: float


def count_pairs(reference_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> Pairs:
    """Count images by who is right about them; both arrays (N,), in the same order."""
    return Pairs(
        both_right=int((reference_right & candidate_right).sum()),
        only_reference_right=int((reference_right & ~candidate_right).sum()),
        only_candidate_right=int((~reference_right & candidate_right).sum()),
        both_wrong=int((~reference_right & ~candidate_right).sum()),
    )


def mcnemar(pairs: Pairs) -> float:
    """Return the exact two-sided p-value of McNemar's test: is one of the two right where the other is not more often?

    The images that only one is right about are as many tosses of a fair coin if neither is better (Q. McNemar,
    Psychometrika 12, 1947). Without any such image it is 1.
    """
    from scipy.stats import binomtest  # takes a second to import, which readers of figures need not wait

    tosses = pairs.only_reference_right + pairs.only_candidate_right
    return float(binomtest(pairs.only_reference_right, tosses).pvalue) if tosses else 1.0


def drop_interval(pairs: Pairs) -> Interval:
    """Return the 95 % percentile interval of the drop over 10,000 bootstrap draws of as many images, with a fixed seed.

    A draw of images with replacement is a multinomial draw of the four counts (B. Efron and R. Tibshirani, An
    Introduction to the Bootstrap, 1993). There must be an image.
    """
    counts = np.array([pairs.only_reference_right, pairs.only_candidate_right, pairs.both_right + pairs.both_wrong])
    drawn = np.random.default_rng(_SEED).multinomial(pairs.images, counts / pairs.images, size=DRAWS)
    drops = (drawn[:, 0] - drawn[:, 1]) / pairs.images
    low, high = np.quantile(drops, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]).tolist()
    return Interval(low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several: none is below 0.05 by chance alone more often than once in twenty times.

    Step-down method of S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics 6, 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(largest, 1.0)
    return adjusted


def pairs_by_class(
    labels: NDArray[np.int64],
    reference_right: NDArray[np.bool_],
    candidate_right: NDArray[np.bool_],
    classes: Sequence[str],
) -> dict[str, Pairs]:
    """Count the images of each class, all (N,) arrays in the same order; a class may have none."""
    found = {}
    for label, name in enumerate(classes):
        of_class = labels == label
        found[name] = count_pairs(reference_right[of_class], candidate_right[of_class])
    return found


def holm_by_class(pairs: Mapping[str, Pairs]) -> dict[str, float]:
    """Return McNemar's p-value of each class that has images, adjusted for their number."""
    present = [name for name, of_class in pairs.items() if of_class.images]
    return dict(zip(present, holm([mcnemar(pairs[name]) for name in present]), strict=True))
