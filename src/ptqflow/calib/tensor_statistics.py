"""What was seen of one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ptqflow.calib.channel_statistics import ChannelStatistics
from ptqflow.calib.histogram import Histogram
from ptqflow.core.errors import ArtifactError


@dataclass(frozen=True)
class TensorStatistics:
    """What was seen of one tensor over all batches; at least one value."""

    minima: NDArray[np.float32]
    """(batches,), the smallest value of each batch, in order."""
    maxima: NDArray[np.float32]
    """(batches,), the largest value of each batch, in order."""
    image_minima: NDArray[np.float32]
    """(images,), the smallest value of each image, in order; (batches,) where images are not the first dimension."""
    image_maxima: NDArray[np.float32]
    """Of the same shape, the largest values."""
    histogram: Histogram
    channels: ChannelStatistics | None = None
    """Of a tensor whose channels `fx.smoothing` can scale; None of any other."""

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return float(self.minima.min())

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.maxima.max())

    @property
    def count(self) -> int:
        """How many values there were."""
        return int(self.histogram.counts.sum())

    def require_channels(self) -> ChannelStatistics:
        """Return what was seen of each channel.

        Raises:
            ArtifactError: it was not recorded.
        """
        if self.channels is None:
            raise ArtifactError("the statistics belong to another network: they lack its channels; run `dvc repro`")
        return self.channels

    def merged(self, other: "TensorStatistics") -> "TensorStatistics":
        """Return the statistics of the batches of both, those of `other` last."""
        return TensorStatistics(
            np.concatenate([self.minima, other.minima]),
            np.concatenate([self.maxima, other.maxima]),
            np.concatenate([self.image_minima, other.image_minima]),
            np.concatenate([self.image_maxima, other.image_maxima]),
            self.histogram.merged(other.histogram),
            self.channels.merged(other.channels) if self.channels and other.channels else None,
        )

    def of_parts(self, passes: int, parts: int) -> "TensorStatistics":
        """Return the statistics where each of `passes` passes saw one of `parts` equal parts of a batch.

        Where a pass had no value, the extremes of the parts stay.
        """
        if len(self.minima) != passes:
            return self
        minima, maxima = self.minima.reshape(-1, parts).min(axis=1), self.maxima.reshape(-1, parts).max(axis=1)
        return replace(self, minima=minima, maxima=maxima)

    def divided(self, scales: NDArray[np.float32]) -> "TensorStatistics":
        """Return the statistics of the tensor with each channel divided by a number of its own.

        Args:
            scales: (channels,), above zero.

        Raises:
            ArtifactError: what was seen of each channel was not recorded.
        """
        minima, maxima, histogram = self.require_channels().divided(scales)
        batches = len(self.minima)
        return TensorStatistics(
            minima.reshape(batches, -1).min(axis=1),
            maxima.reshape(batches, -1).max(axis=1),
            minima,
            maxima,
            histogram,
        )


def share(statistics: Sequence[TensorStatistics]) -> TensorStatistics:
    """Return what one observer of several tensors sees: of each batch first the first tensor, then the second, ….

    The extremes of an image are those of all its tensors together.
    """
    histogram = statistics[0].histogram
    for one in statistics[1:]:
        histogram = histogram.merged(one.histogram)
    return TensorStatistics(
        _interleave([one.minima for one in statistics]),
        _interleave([one.maxima for one in statistics]),
        _together([one.image_minima for one in statistics], np.minimum),
        _together([one.image_maxima for one in statistics], np.maximum),
        histogram,
    )


def _together(extremes: list[NDArray[np.float32]], of_both: np.ufunc) -> NDArray[np.float32]:
    if len({len(of_images) for of_images in extremes}) > 1:
        return np.concatenate(extremes)
    return reduce(of_both, extremes)


def _interleave(extremes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    if len({len(of_batches) for of_batches in extremes}) > 1:  # one was empty in some batch: no order is the true one
        return np.concatenate(extremes)
    return np.stack(extremes, axis=1).ravel()
