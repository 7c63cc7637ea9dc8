"""Fake quantization: a prepared network in FP32 whose values and weights are rounded to quantized levels."""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.graph import observer_nodes, weighted_modules
from ptqflow.fx.observer import RangeObserver
from ptqflow.models.memory_format import lay_out

_BINARY = (operator.add, operator.mul, torch.add, torch.mul)


class Simulation(fx.Interpreter):
    """Runs the result of `copy_to_simulate` with its values rounded to quantized levels."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module; an observer rounds."""
        module = self.fetch_attr(target)
        if isinstance(module, RangeObserver):
            return round_values(module, args[0])
        return super().call_module(target, args, kwargs)


def copy_to_simulate(prepared: GraphModule) -> GraphModule:
    """Return a copy of a prepared network with the ranges of its observers set, in which those left round something."""
    simulated = copy.deepcopy(prepared)
    for node in observer_nodes(simulated):
        if _keeps_levels(node.all_input_nodes[0]):
            setattr(simulated, str(node.target), nn.Identity())
    return simulated


def copy_with_rounded_weights(prepared: GraphModule) -> GraphModule:
    """Return the copy of `copy_to_simulate`, channels last, with the weights of its layers rounded."""
    simulated = copy_to_simulate(prepared)
    for name, layer in weighted_modules(simulated).items():
        round_weight(layer, getattr(simulated.get_submodule(name), "qconfig", None))
    lay_out(simulated, torch.channels_last)
    return simulated


def round_values(observer: RangeObserver, values: Tensor) -> Tensor:
    """Quantize and dequantize float32 values of any shape with the scale and zero point of their observer.

    Values saturate at 255 as those of the kernels do, also where the range was chosen for 7 of 8 bits.
    """
    scale, zero_point = observer.calculate_qparams()
    return torch.fake_quantize_per_tensor_affine(values, scale.item(), int(zero_point.item()), 0, 255)


def round_weight(layer: nn.Conv2d | nn.Linear, qconfig: Any) -> None:
    """Quantize and dequantize the weight of a layer in place, as its qconfig says; None: it stays FP32."""
    if qconfig is None:
        return
    weight, observer = layer.weight.detach(), qconfig.weight()
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    if observer.qscheme == torch.per_channel_symmetric:
        rounded = torch.fake_quantize_per_channel_affine(weight, scale, zero_point.int(), 0, -128, 127)
    else:
        rounded = torch.fake_quantize_per_tensor_affine(weight, scale, zero_point.int(), -128, 127)
    layer.weight = nn.Parameter(rounded, False)


def dequantized_weight(layer: Any) -> Tensor | None:
    """Return the weight of a layer of an INT8 network as float32 values; None for a layer that is FP32."""
    if isinstance(layer, FloatOutput):
        return layer.weight * layer.scale
    return layer.weight().dequantize() if callable(getattr(layer, "weight", None)) else None


def _keeps_levels(node: Node) -> bool:
    """Return whether a node adds or multiplies by a number, which changes scale and zero point and rounds nothing."""
    return node.target in _BINARY and not all(isinstance(argument, Node) for argument in node.args)
