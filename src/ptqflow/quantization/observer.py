"""The observer that records what the values of a tensor are, and leaves the choice of a range for later."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.ao.quantization import ObserverBase

from ptqflow.errors import ModelError
from ptqflow.quantization.histogram import Histogram, histogram_of, smallest_exponent


@dataclass(frozen=True)
class TensorStatistics:
    """What was seen of one tensor over all batches; at least one value."""

    minima: NDArray[np.float32]
    """(batches,), the smallest value of each batch, in order."""
    maxima: NDArray[np.float32]
    """(batches,), the largest value of each batch, in order."""
    histogram: Histogram

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

    def merged(self, other: "TensorStatistics") -> "TensorStatistics":
        """Return the statistics of the batches of both, those of `other` behind one's own."""
        return TensorStatistics(
            np.concatenate([self.minima, other.minima]),
            np.concatenate([self.maxima, other.maxima]),
            self.histogram.merged(other.histogram),
        )


def share(statistics: Sequence[TensorStatistics]) -> TensorStatistics:
    """Return what one observer of several tensors sees: of each batch first the first tensor, then the second, …."""
    histogram = statistics[0].histogram
    for one in statistics[1:]:
        histogram = histogram.merged(one.histogram)
    return TensorStatistics(
        _interleave([one.minima for one in statistics]),
        _interleave([one.maxima for one in statistics]),
        histogram,
    )


def _interleave(extremes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    if len({len(of_batches) for of_batches in extremes}) > 1:  # one was empty in some batch: no order is the true one
        return np.concatenate(extremes)
    return np.stack(extremes, axis=1).ravel()


class StatisticsObserver(ObserverBase):
    """A torch.ao observer that records `TensorStatistics`; `convert` gives it scale and zero point.

    Args:
        quant_max: largest code, 255, or 127 to use 7 of 8 bits.
    """

    def __init__(self, quant_max: int = 255) -> None:
        super().__init__(dtype=torch.quint8)
        self.qscheme = torch.per_tensor_affine
        self.quant_min, self.quant_max = 0, quant_max
        self.scale, self.zero_point = 1.0, 0
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
                f"calibration: {self.source} gives NaN or infinity; are the weights and the images finite?"
            )
        exponent = smallest_exponent(lowest, highest)
        if self.statistics:  # no finer than what it is merged into
            exponent = max(exponent, self.statistics.histogram.exponent)
        histogram = histogram_of(_in_memory_order(values), lowest, highest, exponent)
        seen = TensorStatistics(minima, maxima, histogram)
        self.statistics = self.statistics.merged(seen) if self.statistics else seen
        return values

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the scale as float32 (1,) and the zero point as int32 (1,); 1 and 0 where none were given."""
        return torch.tensor([self.scale]), torch.tensor([self.zero_point], dtype=torch.int32)


def _in_memory_order(values: Tensor) -> Tensor:
    """Return the values of a tensor as one dimension, without a copy where they lie dense, channels first or last."""
    values = values.detach()
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1)
