"""What the statistics of each tensor are, and what the chosen ranges make of them, as figures and as a plot."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptqflow.quantization.histogram import Histogram
from ptqflow.quantization.ranges import QParams, clipped_share
from ptqflow.quantization.statistics import Statistics

_BARS = 64  # of a plotted histogram, at most


def observed_metrics(statistics: Statistics) -> dict[str, Any]:
    """Return the smallest and the largest value of each tensor that had any."""
    return {
        name: {"min": _figure(seen.minimum), "max": _figure(seen.maximum)}
        for name, seen in sorted(statistics.tensors.items())
        if seen
    }


def chosen_metrics(statistics: Statistics, qparams: Mapping[str, QParams]) -> dict[str, Any]:
    """Return range, scale, zero point and share of clipped values of each quantized tensor."""
    metrics = {}
    for name, chosen in qparams.items():
        if seen := statistics.tensors[name]:
            metrics[name] = {
                "low": _figure(chosen.range.low),
                "high": _figure(chosen.range.high),
                "scale": _figure(chosen.scale),
                "zero_point": chosen.zero_point,
                "clipped": round(clipped_share(seen.histogram, chosen), 6),
            }
    return metrics


def histogram_rows(statistics: Statistics, qparams: Mapping[str, QParams]) -> list[dict[str, Any]]:
    """Return a row for each bar of each quantized tensor's histogram, with the ends of the range beside it."""
    return [
        {
            "tensor": name,
            "from": _figure(low),
            "to": _figure(high),
            "values": int(count),
            "low": _figure(chosen.range.low),
            "high": _figure(chosen.range.high),
        }
        for name, chosen in qparams.items()
        if (seen := statistics.tensors[name])
        for low, high, count in _bars(seen.histogram)
    ]


def _bars(histogram: Histogram) -> list[tuple[float, float, int]]:
    while len(histogram.counts) > _BARS:
        histogram = histogram.widened(histogram.exponent + 1)
    return list(zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True))


def _figure(value: float) -> float:
    return float(np.format_float_positional(value, precision=6, fractional=False))
