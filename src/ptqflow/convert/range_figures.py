"""The chosen ranges against the statistics, as rows of tables."""

from collections.abc import Mapping
from typing import Any

from ptqflow.calib.histogram import Histogram
from ptqflow.calib.statistics import Statistics, six_digits
from ptqflow.convert.ranges import QParams, clipped_share
from ptqflow.core.figures import QuantizedRange

_BARS = 64  # of a plotted histogram, at most


def range_rows(statistics: Statistics, qparams: Mapping[str, QParams]) -> list[QuantizedRange]:
    """Return range, scale, zero point and share of clipped values of each quantized tensor, in execution order."""
    return [
        QuantizedRange(
            tensor=name,
            low=six_digits(chosen.range.low),
            high=six_digits(chosen.range.high),
            scale=six_digits(chosen.scale),
            zero_point=chosen.zero_point,
            clipped=round(clipped_share(seen.histogram, chosen), 6),
        )
        for name, chosen in qparams.items()
        if (seen := statistics.tensors[name])
    ]


def histogram_rows(statistics: Statistics, qparams: Mapping[str, QParams]) -> list[dict[str, Any]]:
    """Return a row for each bar of each quantized tensor's histogram, with the ends of the range beside it."""
    return [
        {
            "tensor": name,
            "from": six_digits(low),
            "to": six_digits(high),
            "values": int(count),
            "low": six_digits(chosen.range.low),
            "high": six_digits(chosen.range.high),
        }
        for name, chosen in qparams.items()
        if (seen := statistics.tensors[name])
        for low, high, count in _bars(seen.histogram)
    ]


def _bars(histogram: Histogram) -> list[tuple[float, float, int]]:
    while len(histogram.counts) > _BARS:
        histogram = histogram.widened(histogram.exponent + 1)
    return list(zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True))
