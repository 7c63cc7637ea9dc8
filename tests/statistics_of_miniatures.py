"""Statistics of the miniature networks, collected and compared."""

from typing import Any

import miniature
import numpy as np
import pytest
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.statistics import Statistics
from ptqflow.calib.tensor_statistics import TensorStatistics

NAN, INFINITY = float("nan"), float("inf")
OBSERVED = {
    "residual": ["x", "conv1", "maxpool", "conv2", "relu", "avgpool", "flatten", "fc"],
    "normed": ["norm", "mean", "fc"],
}
only_residual = pytest.mark.parametrize("function", ["residual"], indirect=True)


def collect(network: nn.Module, batches: list[Tensor], first: int = 0) -> Statistics:
    rows = np.arange(first, first + sum(map(len, batches))).reshape(len(batches), -1)
    return collect_statistics(observe(network, miniature.INPUT_SHAPE), batches, rows)


def arrays_of(seen: TensorStatistics | None) -> list[Any]:
    if seen is None:
        return []
    histogram, images = seen.histogram, [seen.image_minima, seen.image_maxima]
    return [seen.minima, seen.maxima, histogram.exponent, histogram.first, histogram.counts, *images]


def assert_equal(one: Statistics, other: Statistics) -> None:
    """Bit for bit, and of the same types."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = [(one.rows, other.rows)]
    for name, seen in one.tensors.items():
        left, right = arrays_of(seen), arrays_of(other.tensors[name])
        pairs += zip(left, right, strict=True)
    for left, right in pairs:
        np.testing.assert_array_equal(left, right, strict=isinstance(left, np.ndarray))
