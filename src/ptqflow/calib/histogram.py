"""A histogram that is the same whatever the order and the grouping in which its values arrive."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 8192  # at most, between the smallest and the largest value, zero included; at least half of them are there

SMALLEST_EXPONENT = -149  # every float32 is a multiple of 2**-149
_EXACT_IN_FLOAT32 = range(-126, 1)  # exponents by which float32 is scaled without the loss of a bit
_CHUNK = 1 << 18  # values that are scaled at a time: what fits the cache, whatever the size of the batch


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins whose width is a power of two and whose edges are multiples of the width.

    The width is the smallest with which no more than `BINS` bins reach from the smallest to the largest value and to
    zero. It depends on these values alone, the count of a wide bin is the sum of those of narrower ones, and a value
    lies in the bin of its exact quotient: so merging is exact, in any order.
    """

    exponent: int
    """The width is 2**exponent; -149 or more."""
    first: int
    """Bin i holds the values x with first + i <= x / 2**exponent < first + i + 1."""
    counts: NDArray[np.int64]
    """(bins,), of which neither the first nor the last is zero."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """Lower edge of each bin, then the upper edge of the last: (bins + 1,)."""
        return np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middle of each bin, (bins,)."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    def widened(self, exponent: int) -> "Histogram":
        """Return the histogram of the same values with bins of width 2**exponent, which may not be narrower."""
        if exponent == self.exponent:
            return self
        bins = _widen(self.first + np.arange(len(self.counts)), exponent - self.exponent)
        counts = np.zeros(bins[-1] - bins[0] + 1, np.int64)
        np.add.at(counts, bins - bins[0], self.counts)
        return Histogram(exponent, int(bins[0]), counts)

    def merged(self, other: "Histogram") -> "Histogram":
        """Return the histogram of the values of both."""
        exponent = max(self.exponent, other.exponent)
        while _span(self, other, exponent) > BINS:
            exponent += 1
        histograms = self.widened(exponent), other.widened(exponent)
        first = min(one.first for one in histograms)
        counts = np.zeros(max(one.first + len(one.counts) for one in histograms) - first, np.int64)
        for part in histograms:
            counts[part.first - first :][: len(part.counts)] += part.counts
        return Histogram(exponent, first, counts)


def histogram_of(values: Tensor, lowest: float, highest: float, exponent: int | None = None) -> Histogram:
    """Count float32 values of any shape, of which `lowest` is the smallest and `highest` the largest.

    `exponent` makes the bins wider than these values need.
    """
    exponent = smallest_exponent(lowest, highest) if exponent is None else exponent
    first, last = _bin(lowest, exponent), _bin(highest, exponent)
    counts = torch.zeros(last - first + 1, dtype=torch.int64)
    for part in values.reshape(-1).split(_CHUNK):
        if exponent in _EXACT_IN_FLOAT32:
            scaled = part * 2.0**-exponent
        else:
            scaled = torch.ldexp(part.double(), torch.tensor(-exponent))
        counts += torch.bincount(scaled.floor_().sub_(first).to(torch.int32), minlength=len(counts))
    return Histogram(exponent, first, counts.numpy())


def smallest_exponent(lowest: float, highest: float) -> int:
    """Return the exponent of the narrowest bins of which `BINS` reach from `lowest` to `highest` and to zero."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if lowest == highest:
        return SMALLEST_EXPONENT
    exponent = max(math.frexp((highest - lowest) / BINS)[1] - 1, SMALLEST_EXPONENT)
    while _bin(highest, exponent) - _bin(lowest, exponent) >= BINS:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _widen(bins: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    return bins >> min(doublings, 62)  # a shift by 64 or more is undefined; beyond 62 all bins are 0 or -1


def _span(one: Histogram, other: Histogram, exponent: int) -> int:
    """Return how many bins of width 2**exponent reach over both and zero."""
    ends = [
        _widen(np.array([part.first, part.first + len(part.counts) - 1]), exponent - part.exponent)
        for part in (one, other)
    ]
    return int(max(0, *(end[1] for end in ends)) - min(0, *(end[0] for end in ends))) + 1
