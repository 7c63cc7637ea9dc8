"""Run images through an observed network and collect what its observers see."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.statistics import Statistics
from ptqflow.core.normalization import InputShape
from ptqflow.data.batching import images_together
from ptqflow.fx.graph import name_observed
from ptqflow.fx.prepare import EVERYTHING, prepare
from ptqflow.fx.smoothing import find_pairs
from ptqflow.models.memory_format import lay_out

_PIXELS = 1 << 18  # of images that run through the network together


@dataclass(frozen=True)
class Observed:
    """A network that is ready to be observed."""

    prepared: GraphModule
    """Fused, FP32, with an observer after every tensor that some engine quantizes."""
    observers: dict[str, StatisticsObserver]
    """Those of `prepared`, by the name of the tensor, as `name_observed` returns it."""


def observe(model: nn.Module, input_shape: InputShape) -> Observed:
    """Prepare a copy of a network for `collect_statistics`.

    Raises:
        ModelError: as `prepare`.
    """
    prepared = prepare(model, input_shape, EVERYTHING)
    lay_out(prepared, torch.channels_last)
    observers = _separate_observers(model, prepared)
    for pair in find_pairs(model, input_shape):
        for tensor, dimension in pair.tensors.items():
            if tensor in observers:
                observers[tensor].channel_dimension = dimension
    return Observed(prepared, observers)


def collect_statistics(observed: Observed, batches: Iterable[Tensor], rows: NDArray[np.int64]) -> Statistics:
    """Run float32 batches (N, C, H, W) through an observed network in inference mode and return what was seen.

    Args:
        observed: of which nothing was collected before.
        batches: in the order in which a moving average takes them.
        rows: (batches, N), where the images are from.

    Raises:
        ModelError: an activation is NaN or infinite; the error names what it came from.
    """
    prepared, observers = observed.prepared, observed.observers
    waiting = iter(batches)
    first = next(waiting)
    together = batches_together(prepared, first)
    batch_size = len(first) if _images_come_first(prepared, first) else None
    for observer in observers.values():
        observer.batch_size = batch_size
    waiting = chain([first], waiting)
    with torch.inference_mode():
        while group := list(islice(waiting, together)):
            prepared(torch.cat(group).contiguous(memory_format=torch.channels_last))
    return Statistics({name: observer.statistics for name, observer in observers.items()}, rows)


def _separate_observers(model: nn.Module, prepared: GraphModule) -> dict[str, StatisticsObserver]:
    """Replace the observers so that every tensor has one of its own, also where FX lets several share one.

    Which tensors share depends on what is quantized, which is `convert`'s choice; it merges what it finds shared.
    """
    observers = {}
    for target, name in name_observed(model, prepared).items():
        observers[name] = StatisticsObserver()
        observers[name].source = name
        setattr(prepared, target, observers[name])
    return observers


def batches_together(prepared: GraphModule, batch: Tensor) -> int:
    """Return how many batches may run at a time, which is faster where images are small.

    More than one only if images are the first dimension of every tensor, by which the extremes of batches are kept
    apart.
    """
    most = images_together((batch.shape[2], batch.shape[3]), _PIXELS) // len(batch)
    return most if most > 1 and _images_come_first(prepared, batch) else 1


def _images_come_first(prepared: GraphModule, batch: Tensor) -> bool:
    for images in (2, 3):
        probe = _Probe(prepared)
        with torch.inference_mode():
            probe.run(batch[:1].expand(images, -1, -1, -1))
        if probe.first_dimensions != {images}:
            return False
    return True


class _Probe(fx.Interpreter):
    """Runs a prepared network past its observers and collects the first dimensions of what they would see."""

    def __init__(self, prepared: GraphModule) -> None:
        super().__init__(prepared)
        self.first_dimensions: set[int] = set()

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(self.fetch_attr(target), StatisticsObserver):
            return super().call_module(target, args, kwargs)
        self.first_dimensions.add(len(args[0]) if args[0].dim() else 0)
        return args[0]
