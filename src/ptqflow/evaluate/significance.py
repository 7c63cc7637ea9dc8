"""Two classifiers on the same images: how much they differ, and whether chance explains the difference.

The two are called `reference` and `candidate`, such as FP32 and INT8; the drop is what the candidate loses. Functions
of counts and of (N,) arrays, without torch. All tests are exact and two-sided, all intervals are 95 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from ptqflow.core.figures import DIGITS, Counts, Drop, PairedFigures

ALPHA = 0.05
FEWEST_SIGNIFICANT = 6
"""The smallest net loss of images that can be significant: 2 · 0.5⁶ < 0.05, all discordant images in one direction."""


@dataclass(frozen=True)
class Pairs:
    """Numbers of images by which of the two classifiers is right."""

    both_right: int
    only_reference_right: int
    only_candidate_right: int
    both_wrong: int

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both_right + self.only_reference_right + self.only_candidate_right + self.both_wrong

    @property
    def discordant(self) -> int:
        """Number of images that exactly one of the two classifies correctly."""
        return self.only_reference_right + self.only_candidate_right

    @property
    def is_equal(self) -> bool:
        """Whether both classify the same images correctly."""
        return not self.discordant

    @property
    def drop(self) -> float:
        """Accuracy of the reference minus accuracy of the candidate, a fraction; there must be an image."""
        return (self.only_reference_right - self.only_candidate_right) / self.images


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval."""

    low: float
    high: float


def count_pairs(reference_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_]) -> Pairs:
    """Count images by which classifier is right; both arrays (N,), in the same order."""
    return Pairs(
        both_right=int((reference_right & candidate_right).sum()),
        only_reference_right=int((reference_right & ~candidate_right).sum()),
        only_candidate_right=int((~reference_right & candidate_right).sum()),
        both_wrong=int((~reference_right & ~candidate_right).sum()),
    )


def mcnemar(pairs: Pairs) -> float:
    """Return the exact two-sided p-value of McNemar's test that both classifiers are equally accurate.

    Under that hypothesis each discordant image is a toss of a fair coin (Q. McNemar, Psychometrika 12, 1947). The
    p-value is 1 without a discordant image.
    """
    smaller = min(pairs.only_reference_right, pairs.only_candidate_right)
    return min(1.0, 2 * float(bdtr(smaller, pairs.discordant, 0.5)))


def drop_interval(pairs: Pairs) -> Interval:
    """Return the exact 95 % confidence interval of the drop, given the number of discordant images; N must not be 0.

    Of n discordant images among N, the share that only the reference classifies correctly has the binomial interval of
    C. Clopper and E. Pearson, Biometrika 26, 1934; the drop is (2 · share - 1) · n / N. The interval inverts the test
    whose p-value is twice the smaller tail, which for a fair coin is `mcnemar`: it excludes 0 exactly where p < 0.05.
    It is [0, 0] without a discordant image.
    """
    lost, won = pairs.only_reference_right, pairs.only_candidate_right
    low_share = float(betaincinv(lost, won + 1, ALPHA / 2)) if lost else 0.0
    high_share = float(betaincinv(lost + 1, won, 1 - ALPHA / 2)) if won else 1.0
    # Adding 0.0 makes 0.0 of -0.0.
    low, high = ((2 * share - 1) * pairs.discordant / pairs.images + 0.0 for share in (low_share, high_share))
    return Interval(low, high)


def share_interval(count: int, images: int) -> Interval:
    """Return the exact 95 % confidence interval of a share of images (C. Clopper and E. Pearson, Biometrika 26, 1934).

    Args:
        count: images of the kind.
        images: all that were drawn, 1 or more.
    """
    low = float(betaincinv(count, images - count + 1, ALPHA / 2)) if count else 0.0
    high = float(betaincinv(count + 1, images - count, 1 - ALPHA / 2)) if count < images else 1.0
    return Interval(low, high)


def paired_figures(pairs: Pairs, agreement: float) -> PairedFigures:
    """Return the figures of two networks from the counts of images; there must be an image."""
    interval = drop_interval(pairs)
    return PairedFigures(
        drop=Drop(
            top1=round(pairs.drop, DIGITS), low=six_significant(interval.low), high=six_significant(interval.high)
        ),
        agreement=round(agreement, DIGITS),
        paired=Counts(
            both_right=pairs.both_right,
            only_fp32_right=pairs.only_reference_right,
            only_int8_right=pairs.only_candidate_right,
            both_wrong=pairs.both_wrong,
            p=six_significant(mcnemar(pairs)),
        ),
    )


def six_significant(value: float) -> float:
    """Round to six significant digits: with a fixed number of decimals, a small p or interval end would become 0."""
    return float(f"{value:.6g}")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests, so that any of them is below 0.05 by chance with probability 0.05 at most.

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
