"""Warn where a range method that clips, asked for in the params, cuts off signal that the network needs."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from ptqflow.calib.histogram import Histogram
from ptqflow.calib.statistics import Statistics
from ptqflow.convert.criterion import Images, Score, read_images
from ptqflow.convert.method_search import with_method
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.qparams import set_ranges
from ptqflow.convert.ranges import Method, QParams
from ptqflow.convert.simulated_ranges import SimulatedRanges
from ptqflow.core.errors import PtqflowWarning
from ptqflow.data.dataset import Split
from ptqflow.fx.prepare import Scheme
from ptqflow.models.fp32 import Fp32Model

CLIPPING: tuple[Method, ...] = ("entropy", "percentile")
_OTHERS: tuple[Method, ...] = ("minmax", "minmax_32")
"""Methods that clip nothing or little, with which they are compared."""
_IMAGES = 32
_LOSS_DB = 1.0
_FEW_IMAGES = 8
"""Of these, on which the tensor that costs most is searched; the share of power that is cut off does not show which."""


@dataclass(frozen=True)
class Clipping:
    """What a method that clips loses beside one that does not."""

    method: Method
    other: Method
    """The best of those that it is compared with."""
    method_db: float
    other_db: float
    tensor: str
    """Whose range costs most alone."""
    tensor_db: float
    """What that costs where all other tensors have the ranges of the other method."""
    cut: float
    """Share of the power of this tensor that is cut off."""

    def __str__(self) -> str:
        return (
            f"convert.activation.method={self.method} cuts off signal: the SQNR of the logits of calibration images is "
            f"{self.method_db:.1f} dB, {self.other_db:.1f} dB with {self.other}; most is lost in {self.tensor}, "
            f"{self.tensor_db:.1f} dB alone, of whose power {100 * self.cut:.2g} % is cut off; try "
            "convert.activation.method=auto"
        )


def warn_of_clipping(
    fp32: Fp32Model,
    prepared: GraphModule,
    scheme: Scheme,
    params: ConvertParams,
    statistics: Statistics,
    train: Split,
) -> None:
    """Issue a `PtqflowWarning` where the method of the params is entropy or percentile and costs more than 1 dB.

    Args:
        fp32: the network.
        prepared: it with the ranges of these params.
        scheme: that it was prepared with.
        params: the `convert` section.
        statistics: of the network.
        train: the split that the calibration images are from, of which at most 32 are simulated.
    """
    if params.activation.method not in CLIPPING:
        return
    images = read_images(fp32.module, fp32.card.normalization, train, statistics.rows.ravel()[:_IMAGES])
    if found := measure_clipping(fp32.module, prepared, scheme, params, statistics, images):
        warnings.warn(PtqflowWarning(str(found)), stacklevel=1)


def measure_clipping(
    model: nn.Module,
    prepared: GraphModule,
    scheme: Scheme,
    params: ConvertParams,
    statistics: Statistics,
    images: Images,
) -> Clipping | None:
    """Return what the method of the params costs beside the best of `minmax` and `minmax_32`; None for 1 dB or less,
    and where no tensor loses anything by what is cut off of it.

    Args:
        model: the FP32 network.
        prepared: it with the ranges of these params.
        scheme: that it was prepared with.
        params: the `convert` section.
        statistics: of the network.
        images: that are simulated.
    """
    chosen = params.activation.method
    assert chosen != "auto", "search_methods resolves it"
    ranges = {
        method: set_ranges(
            model, copy.deepcopy(prepared), scheme, statistics, with_method(params, method, {}), idle_overrides=True
        )
        for method in (chosen, *_OTHERS)
    }
    simulated = SimulatedRanges(model, prepared)
    scores = {method: _score(simulated, found, images) for method, found in ranges.items()}
    other = max(_OTHERS, key=lambda method: scores[method].db)
    if scores[other].gain(scores[chosen]) <= _LOSS_DB:
        return None
    clipped = ranges[chosen]
    cut = {
        tensor: share
        for tensor, qparams in clipped.items()
        if (seen := statistics.tensors[tensor]) and (share := cut_power(seen.histogram, qparams))
    }
    if not cut:  # what it loses is not what it cuts off
        return None
    few = images.first(min(_FEW_IMAGES, images.together))
    simulated.set_ranges(ranges[other])
    with torch.inference_mode():
        simulated.run_keeping(few.inputs)
        tensor = min(cut, key=lambda tensor: few.compare(simulated.with_range(tensor, clipped[tensor])).db)
    alone = {name: clipped[name] for name in simulated.sharing(tensor) if name in clipped}
    cost = scores[other].db - _score(simulated, ranges[other] | alone, images).db
    return Clipping(chosen, other, scores[chosen].db, scores[other].db, tensor, cost, cut[tensor]) if cost > 0 else None


def cut_power(histogram: Histogram, qparams: QParams) -> float:
    """Return the power of what a range cuts off of a tensor's values, as a share of that of the values."""
    values, counts = histogram.centers, histogram.counts
    cut = values - np.clip(values, qparams.range.low, qparams.range.high)
    power = float((counts * values**2).sum())
    return float((counts * cut**2).sum()) / power if power else 0.0


def _score(simulated: SimulatedRanges, ranges: Mapping[str, QParams], images: Images) -> Score:
    """Return how near the network is to FP32 with these ranges."""
    simulated.set_ranges(ranges)
    return images.score(simulated.run)
