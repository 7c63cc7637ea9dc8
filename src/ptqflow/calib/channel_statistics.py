"""What was seen of each channel of one tensor."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.calib.histogram import SMALLEST_EXPONENT, Histogram, smallest_exponent

BINS = 256
"""Of a channel, at most, between its smallest and its largest value, zero included; at least half of them are there."""
_CHUNK = 1 << 18  # values that are counted at a time
_POINTS = 8  # of a bin, between which its values are spread where they join those of other channels


@dataclass(frozen=True)
class ChannelStatistics:
    """Extremes and histograms of the channels of one tensor over all images.

    The bins of a channel are those of `Histogram`: their width is a power of two that depends on the extremes alone, so
    merging is exact, in any order.
    """

    image_minima: NDArray[np.float32]
    """(images, channels), the smallest value of each channel of each image, in order; (batches, channels) where images
    are not the first dimension."""
    image_maxima: NDArray[np.float32]
    """Of the same shape, the largest values."""
    counts: NDArray[np.int64]
    """(channels, 256): bin i of a channel holds the values x with first + i <= x / 2**exponent < first + i + 1, where
    first is the bin of its smallest value."""

    @property
    def magnitudes(self) -> NDArray[np.float32]:
        """The largest absolute value of each channel, (channels,)."""
        largest: NDArray[np.float32] = np.maximum(-self.image_minima, self.image_maxima).max(axis=0)
        return largest

    def merged(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """Return the statistics of the images of both, those of `other` last."""
        minima = np.concatenate([self.image_minima, other.image_minima])
        maxima = np.concatenate([self.image_maxima, other.image_maxima])
        bins = _Bins.between(minima.min(axis=0), maxima.max(axis=0))
        return ChannelStatistics(minima, maxima, self._widened(bins) + other._widened(bins))

    def divided(self, scales: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], Histogram]:
        """Return what all channels have together once each is divided by a number of its own.

        Args:
            scales: (channels,), above zero.

        Returns:
            Minima and maxima of the images, which are exact, and the histogram, in which the values of a channel are
            spread evenly over each of its bins.
        """
        minima, maxima = (self.image_minima / scales).min(axis=1), (self.image_maxima / scales).max(axis=1)
        own = self._bins
        points = own.first[:, None] + (np.arange(BINS * _POINTS) + 0.5) / _POINTS
        values = (np.ldexp(points, own.exponent[:, None]) / scales[:, None]).clip(minima.min(), maxima.max())
        width = smallest_exponent(float(minima.min()), float(maxima.max()))
        bins = np.floor(np.ldexp(values, -width)).astype(np.int64)
        shares = np.bincount((bins - bins.min()).ravel(), np.repeat(self.counts / _POINTS, _POINTS))
        sums = np.rint(np.cumsum(shares)).astype(np.int64)
        counts = sums - np.concatenate([[0], sums[:-1]])
        present = np.flatnonzero(counts)
        return minima, maxima, Histogram(width, int(bins.min() + present[0]), counts[present[0] : present[-1] + 1])

    @property
    def _bins(self) -> "_Bins":
        return _Bins.between(self.image_minima.min(axis=0), self.image_maxima.max(axis=0))

    def _widened(self, bins: "_Bins") -> NDArray[np.int64]:
        """Return the counts in bins that are not narrower."""
        own, (channel, position) = self._bins, self.counts.nonzero()
        doublings = np.minimum(bins.exponent - own.exponent, 62)  # a shift by 64 or more is undefined
        moved = (own.first[channel] + position >> doublings[channel]) - bins.first[channel]
        counts = np.zeros_like(self.counts)
        np.add.at(counts, (channel, moved), self.counts[channel, position])
        return counts


@dataclass(frozen=True)
class _Bins:
    """Of each channel, (channels,)."""

    exponent: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def between(cls, lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> "_Bins":
        """Return the narrowest bins of which `BINS` reach from the smallest to the largest value and to zero."""
        low, high = np.minimum(lowest, 0).astype(np.float64), np.maximum(highest, 0).astype(np.float64)
        exponent = np.frexp((high - low) / BINS)[1].astype(np.int64) - 1
        exponent = np.where(low < high, np.maximum(exponent, SMALLEST_EXPONENT), SMALLEST_EXPONENT)
        while (wide := _bin(high, exponent) - _bin(low, exponent) >= BINS).any():
            exponent += wide
        return cls(exponent, _bin(lowest.astype(np.float64), exponent))


def channel_statistics_of(values: Tensor, dimension: int, batch_size: int | None) -> ChannelStatistics:
    """Return what the channels of float32 values are.

    Args:
        values: of any shape, finite and not empty.
        dimension: of the channels, counted from the last one on.
        batch_size: None where images are not the first dimension.
    """
    moved = values.detach().movedim(dimension, -1)
    extremes = torch.aminmax(moved.reshape(1 if batch_size is None else len(moved), -1, moved.shape[-1]), dim=1)
    minima, maxima = extremes.min.numpy(), extremes.max.numpy()
    bins = _Bins.between(minima.min(axis=0), maxima.max(axis=0))
    channels = moved.shape[-1]
    scale, first = torch.from_numpy(np.ldexp(1.0, -bins.exponent)), torch.from_numpy(bins.first)
    offsets = torch.arange(channels) * BINS - first
    counts = torch.zeros(channels * BINS, dtype=torch.int64)
    for part in moved.reshape(-1, channels).split(max(1, _CHUNK // channels)):
        places = (part.double() * scale).floor_().long().add_(offsets)
        counts += torch.bincount(places.reshape(-1), minlength=len(counts))
    return ChannelStatistics(minima, maxima, counts.reshape(channels, BINS).numpy())


def _bin(values: NDArray[np.float64], exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    bins: NDArray[np.int64] = np.floor(np.ldexp(values, -exponent)).astype(np.int64)
    return bins
