"""The observer that records what the values of a tensor are, and leaves the choice of a range for later."""

import math

import numpy as np
import torch
from torch import Tensor, nn

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
        """How many of the first dimension make a batch; None: all."""
        self.statistics: TensorStatistics | None = None
        """None as long as no value was seen."""

    def forward(self, values: Tensor) -> Tensor:
        """Record float32 values of any shape and pass them on; an empty tensor leaves no trace.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        if values.numel() == 0:
            return values
        batches = [values] if self.batch_size is None else values.split(self.batch_size)
        extremes = [torch.aminmax(_in_memory_order(batch)) for batch in batches]
        minima, maxima = (np.array([pair[end].item() for pair in extremes], np.float32) for end in (0, 1))
        lowest, highest = float(minima.min()), float(maxima.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ModelError(
                f"calibration: {self.source} returns NaN or infinity; are the weights and the images finite?"
            )
        exponent = smallest_exponent(lowest, highest)
        if self.statistics:  # no finer than what it is merged into
            exponent = max(exponent, self.statistics.histogram.exponent)
        histogram = histogram_of(_in_memory_order(values), lowest, highest, exponent)
        seen = TensorStatistics(minima, maxima, histogram)
        self.statistics = self.statistics.merged(seen) if self.statistics else seen
        return values


def _in_memory_order(values: Tensor) -> Tensor:
    """Return the values of a tensor as one dimension, without a copy where they lie dense, channels first or last."""
    values = values.detach()
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1)
