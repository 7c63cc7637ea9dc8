"""Scales and zero points of the tensors of a network, by their names."""

from collections.abc import Mapping

from pydantic import NonNegativeInt, PositiveFloat
from torch import nn
from torch.fx import GraphModule

from ptqflow.core.artifacts import Card
from ptqflow.fx.graph import name_observed
from ptqflow.fx.observer import RangeObserver


class TensorQParams(Card):
    """How the values of a tensor are quantized."""

    scale: PositiveFloat
    """A float32."""
    zero_point: NonNegativeInt


def observed_together(prepared: GraphModule, names: Mapping[str, str]) -> dict[RangeObserver, list[str]]:
    """Return the names of the tensors that each observer with a range to be chosen stands for.

    Args:
        prepared: a network with observers.
        names: of the tensors, as `name_observed` returns them.
    """
    together: dict[RangeObserver, list[str]] = {}
    for target, name in names.items():
        observer = prepared.get_submodule(target)
        assert isinstance(observer, RangeObserver)
        together.setdefault(observer, []).append(name)
    return together


def restore_ranges(model: nn.Module, prepared: GraphModule, qparams: Mapping[str, TensorQParams]) -> None:
    """Set on every observer the scale and zero point that were chosen when the network was converted.

    Args:
        model: the FP32 network.
        prepared: it with observers.
        qparams: of the INT8 network's card.
    """
    for observer, names in observed_together(prepared, name_observed(model, prepared)).items():
        if chosen := next((qparams[name] for name in names if name in qparams), None):
            observer.scale, observer.zero_point = chosen.scale, chosen.zero_point
