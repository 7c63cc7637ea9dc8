"""From activation statistics to scale and zero point: pure functions, nothing runs through a network."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptqflow.calib.histogram import Histogram
from ptqflow.calib.tensor_statistics import TensorStatistics

Method = Literal[
    "minmax",
    "minmax_1",
    "minmax_2",
    "minmax_4",
    "minmax_8",
    "minmax_16",
    "minmax_32",
    "minmax_64",
    "minmax_128",
    "moving_average",
    "percentile",
    "mse",
    "entropy",
]

_SMALLEST_SCALE = np.finfo(np.float32).eps  # as in torch's observers
_AVERAGING_CONSTANT = np.float32(0.01)  # of torch's MovingAverageMinMaxObserver
_WIDE_STEPS = np.geomspace(1 / 256, 1, 65)  # shares of the whole range that `mse_range` tries,
_NARROW_STEPS = np.linspace(0.92, 1.09, 35)  # then of the best of these
_TURNS = 3
_THRESHOLDS = 256  # that `entropy_range` tries
_ENTROPY_BINS, _ENTROPY_LEVELS = 2048, 128  # as TensorRT has them


@dataclass(frozen=True)
class Range:
    """The values that are representable; those outside are clipped."""

    low: float
    high: float


@dataclass(frozen=True)
class Levels:
    """The whole numbers 0 to `largest` that stand for values: x becomes clip(round(x / scale) + zero_point)."""

    largest: int
    """255 with all 8 bits, 127 with 7."""
    symmetric: bool
    """Whether the zero point is the middle level, as torch.per_tensor_symmetric does it."""


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of a tensor."""

    scale: float
    """A float32, 2**-23 or more."""
    zero_point: int
    levels: Levels

    @property
    def range(self) -> Range:
        """The values of the smallest and the largest level."""
        return Range(-self.zero_point * self.scale, (self.levels.largest - self.zero_point) * self.scale)


def choose_range(statistics: TensorStatistics, method: Method, percentile: float, levels: Levels) -> Range:
    """Choose the range of a tensor; `percentile` is of use to the method of that name alone."""
    match method:
        case "minmax":
            return minmax_range(statistics)
        case "moving_average":
            return moving_average_range(statistics)
        case "percentile":
            return percentile_range(statistics, percentile)
        case "mse":
            return mse_range(statistics, levels)
        case "entropy":
            return entropy_range(statistics)
        case _:
            return typical_extremes(statistics, int(method.removeprefix("minmax_")))


def to_qparams(chosen: Range, levels: Levels) -> QParams:
    """Return scale and zero point, the same as torch's observers compute in float32.

    The range is widened to zero, which has a level of its own: padding and ReLU depend on it.
    """
    low, high = np.float32(min(chosen.low, 0.0)), np.float32(max(chosen.high, 0.0))
    if levels.symmetric:
        scale = max(-low, high) / np.float32(levels.largest / 2)
        zero_point = (levels.largest + 1) // 2
    else:
        scale = (high - low) / np.float32(levels.largest)
    scale = max(scale, _SMALLEST_SCALE)
    if not levels.symmetric:
        zero_point = int(np.clip(-np.rint(low / scale), 0, levels.largest))
    return QParams(float(scale), zero_point, levels)


def minmax_range(statistics: TensorStatistics) -> Range:
    """Take all values in (torch's MinMaxObserver)."""
    return Range(statistics.minimum, statistics.maximum)


def typical_extremes(statistics: TensorStatistics, images: int) -> Range:
    """Average the extremes that so many images have together, over groups of them.

    Unlike the extremes of all images it does not widen with their number, and unlike a moving average it weighs all
    images alike.

    Args:
        statistics: of the tensor.
        images: of a group; there are fewer in all, they are one group.
    """
    lows, highs = statistics.image_minima, statistics.image_maxima
    groups = max(1, len(lows) // images)
    low = float(np.mean([group.min() for group in np.array_split(lows, groups)], dtype=np.float64))
    high = float(np.mean([group.max() for group in np.array_split(highs, groups)], dtype=np.float64))
    return Range(low, high)


def moving_average_range(statistics: TensorStatistics) -> Range:
    """Average extremes of the batches, each next one with weight 0.01 (torch's MovingAverageMinMaxObserver)."""
    return Range(_moving_average(statistics.minima), _moving_average(statistics.maxima))


def percentile_range(statistics: TensorStatistics, percentile: float) -> Range:
    """Reach from the (100 - percentile)-th to the percentile-th percentile, exact to the width of a bin.

    Args:
        statistics: of the tensor.
        percentile: over 50; 100 returns the smallest and the largest value.
    """
    histogram = statistics.histogram
    ranks = np.concatenate([[0], np.cumsum(histogram.counts)])
    shares = np.array([1 - percentile / 100, percentile / 100])
    ends = np.interp(shares * ranks[-1], ranks, histogram.edges)
    low, high = np.clip(ends, statistics.minimum, statistics.maximum).tolist()
    return Range(low, high)


def mse_range(statistics: TensorStatistics, levels: Levels) -> Range:
    """Minimize the squared error of quantize-dequantize over the histogram, clipping included.

    Where it has two ends, each is searched while the other is held, in turns.
    """
    lowest, highest = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    if levels.symmetric:
        # There is a level more below zero than above, so both ends differ from those of the range by half a step.
        widest = levels.largest * max(-lowest / (levels.largest + 1), highest / (levels.largest - 1))
        end = _search(statistics.histogram, levels, widest, other=0.0)
        return Range(-end, end)
    low, high = lowest, highest
    for _ in range(_TURNS if lowest < 0 < highest else 1):
        high = _search(statistics.histogram, levels, highest, other=low)
        low = _search(statistics.histogram, levels, lowest, other=high)
    return Range(low, high)


def entropy_range(statistics: TensorStatistics) -> Range:
    """Clip |x| where the distribution loses least to its quantized form, by KL divergence.

    Method of NVIDIA TensorRT (S. Migacz, 8-bit Inference with TensorRT, GTC 2017).
    """
    magnitudes = _magnitudes(statistics.histogram)
    if len(magnitudes.counts) <= _ENTROPY_LEVELS:
        return minmax_range(statistics)
    thresholds = np.unique(np.linspace(_ENTROPY_LEVELS, len(magnitudes.counts), _THRESHOLDS).astype(int))
    divergences = [_divergence(magnitudes.counts, threshold) for threshold in thresholds]
    limit = np.ldexp(float(thresholds[int(np.argmin(divergences))]), magnitudes.exponent)
    return Range(max(statistics.minimum, -limit), min(statistics.maximum, limit))


def squared_error(histogram: Histogram, qparams: list[QParams]) -> NDArray[np.float64]:
    """Return the squared error of quantize-dequantize for each of `qparams`, with all values at their bins' centers."""
    centers = histogram.centers.astype(np.float32)
    scale = np.array([[one.scale] for one in qparams], np.float32)
    lowest = np.array([[-one.zero_point] for one in qparams], np.float32)
    highest = lowest + np.float32(qparams[0].levels.largest)
    errors = np.clip(np.rint(centers / scale), lowest, highest) * scale - centers
    total: NDArray[np.float64] = np.square(errors, dtype=np.float64) @ histogram.counts.astype(np.float64)
    return total


def clipped_share(histogram: Histogram, qparams: QParams) -> float:
    """Return the share of values that are farther than half a step outside the range, by the centers of their bins."""
    centers, half = histogram.centers, qparams.scale / 2
    outside = (centers < qparams.range.low - half) | (centers > qparams.range.high + half)
    return float(histogram.counts[outside].sum() / histogram.counts.sum())


def _moving_average(extremes: NDArray[np.float32]) -> float:
    average = extremes[0]
    for extreme in extremes[1:]:
        average = average + _AVERAGING_CONSTANT * (extreme - average)
    return float(average)


def _search(histogram: Histogram, levels: Levels, extreme: float, other: float) -> float:
    """Return the end with the least squared error, first in wide steps between zero and `extreme`, then in narrow ones.

    These go a step beyond it where there are two ends: zero has a level, so both extremes have one only if
    the range is so much wider.
    """
    best, shares = 1.0, _WIDE_STEPS
    last = 1 + abs(extreme - other) / abs(extreme) / (levels.largest - 1) if extreme and other else 1.0
    for _ in range(2):
        ends = [sorted((share * extreme, other)) for share in shares.tolist()]
        errors = squared_error(histogram, [to_qparams(Range(low, high), levels) for low, high in ends])
        best = float(shares[int(np.argmin(errors))])
        shares = np.minimum(best * _NARROW_STEPS, last)
    return best * extreme


def _magnitudes(histogram: Histogram) -> Histogram:
    """Return the histogram of |x|, from zero on, with no more than 2048 bins."""
    bins = histogram.first + np.arange(len(histogram.counts))
    folded = np.where(bins < 0, -bins - 1, bins)
    exponent = histogram.exponent
    while folded.max() >= _ENTROPY_BINS:
        folded, exponent = folded >> 1, exponent + 1
    counts = np.bincount(folded, histogram.counts).astype(np.int64)
    counts[0] = min(counts[0], counts[1:2].sum())  # zeros, of which ReLU makes many, lose nothing at any scale
    return Histogram(exponent, 0, counts)


def _divergence(counts: NDArray[np.int64], threshold: int) -> float:
    """Return the KL divergence of the first `threshold` bins, the last with all after it, from 128 levels of them."""
    inside = counts[:threshold].astype(np.float64)
    reference = inside.copy()
    reference[-1] += counts[threshold:].sum()
    starts = np.arange(_ENTROPY_LEVELS) * threshold // _ENTROPY_LEVELS
    occupied = np.add.reduceat((inside > 0).astype(np.float64), starts)
    mean = np.add.reduceat(inside, starts) / np.maximum(occupied, 1)
    widths = np.diff(np.append(starts, threshold))
    quantized = np.where(inside > 0, np.repeat(mean, widths), 0)
    if reference[-1] and not quantized[-1]:
        return np.inf  # clipped values where the quantized form has none
    present = reference > 0
    p, q = reference[present] / reference.sum(), quantized[present] / quantized.sum()
    return float(np.sum(p * np.log(p / q)))
