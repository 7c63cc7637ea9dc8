"""The observer that records what the values of a tensor are, and leaves the choice of a range for later."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptqflow.calib.channel_statistics import channel_statistics_of
from ptqflow.calib.histogram import histogram_of, smallest_exponent
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.core.errors import ModelError


class StatisticsObserver(nn.Module):
    """Records `TensorStatistics` of what passes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.source = "the network"
        """What an error names."""
        self.batch_size: int | None = None
        """How many of the first dimension, which is then images, make a batch; None: all values are one."""
        self.channel_dimension: int | None = None
        """Counted from the last one on, of a tensor whose channels are recorded too; None: they are not."""
        self.statistics: TensorStatistics | None = None
        """None as long as no value was seen."""

    def forward(self, values: Tensor) -> Tensor:
        """Record float32 values of any shape and pass them on; an empty tensor leaves no trace.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        if values.numel() == 0:
            return values
        lows, highs = self._extremes(values)
        size = self.batch_size or 1
        minima, maxima = lows.reshape(-1, size).min(axis=1), highs.reshape(-1, size).max(axis=1)
        lowest, highest = float(minima.min()), float(maxima.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ModelError(
                f"calibration: {self.source} returns NaN or infinity; are the weights and the images finite?"
            )
        exponent = smallest_exponent(lowest, highest)
        if self.statistics:  # no finer than what it is merged into
            exponent = max(exponent, self.statistics.histogram.exponent)
        histogram = histogram_of(_in_memory_order(values), lowest, highest, exponent)
        channels = None
        if self.channel_dimension is not None:
            channels = channel_statistics_of(values, self.channel_dimension, self.batch_size)
        seen = TensorStatistics(minima, maxima, lows, highs, histogram, channels)
        self.statistics = self.statistics.merged(seen) if self.statistics else seen
        return values

    def _extremes(self, values: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the smallest and the largest value of each image, or of all values."""
        if self.batch_size is None:
            extremes = torch.aminmax(_in_memory_order(values))
            return extremes.min.reshape(1).numpy(), extremes.max.reshape(1).numpy()
        extremes = torch.aminmax(_channels_last(values).reshape(len(values), -1), dim=1)
        return extremes.min.numpy(), extremes.max.numpy()


def _in_memory_order(values: Tensor) -> Tensor:
    """Return the values of a tensor as one dimension, without a copy where they lie dense, channels first or last."""
    return _channels_last(values.detach()).reshape(-1)


def _channels_last(values: Tensor) -> Tensor:
    """Return the values with the dimensions in the order of memory, where that is channels last."""
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1)
    return values
