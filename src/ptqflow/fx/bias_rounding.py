"""Biases that every integer kernel can hold, in range and in steps.

ONNX Runtime adds the bias to int32 sums, so it rounds it to whole steps of them; oneDNN and OpenVINO add it in float.
The rounding is far below a step of the output, yet over the layers of a network it grows: of the labels of a ResNet-18
on CIFAR-10, torch and ONNX Runtime differed in 0.8 % with it in one of them alone, and in 0.07 % with it in both.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node

from ptqflow.core.normalization import InputShape
from ptqflow.fx.prepare import without_torch_warnings

_MOST_STEPS = 2**30
"""Of a bias: int32 holds twice as many, of which the sums of products need some."""


def fit_biases(converted: GraphModule, input_shape: InputShape, *, rounded: bool) -> None:
    """Make the biases of the INT8 layers, in place, such as int32 sums can hold.

    The weight scales of channels whose bias has more steps than int32 can hold are enlarged. A step is the scale of the
    input times that of the weights, so it is tiny where a filter is all zeros. The weights of such a channel are small
    beside its bias, and lose no accuracy that shows.

    Args:
        converted: the INT8 network.
        input_shape: channels, height and width of an image.
        rounded: whether each bias is rounded to a multiple of the scale of its sums.
    """
    for layer, input_scale in _weighted_layers(converted, input_shape):
        weight, bias = layer.weight(), layer.bias()
        smallest = bias.detach().abs() / (input_scale * _MOST_STEPS)
        if (sum_scale(weight, 1.0) < smallest).any():
            weight = _with_scales(weight, smallest)
        layer.set_weight_bias(weight, rounded_bias(bias, weight, input_scale) if rounded else bias)


def _weighted_layers(converted: GraphModule, input_shape: InputShape) -> Iterator[tuple[Any, float]]:
    """Yield the INT8 layers with a bias whose inputs all have one scale, and that scale."""
    scales = _InputScales(converted)
    with without_torch_warnings(), torch.inference_mode():
        scales.run(torch.zeros(2, *input_shape))
    for name, found in scales.of_layer.items():
        layer: Any = converted.get_submodule(name)
        if len(found) == 1 and layer.bias() is not None:
            yield layer, *found


def _with_scales(weight: Tensor, smallest: Tensor) -> Tensor:
    """Quantize a weight again with scales (C,) that are at least `smallest` (C,)."""
    values = weight.dequantize()
    if not _is_per_channel(weight):
        return torch.quantize_per_tensor(values, max(weight.q_scale(), smallest.max().item()), 0, torch.qint8)
    scales = torch.maximum(weight.q_per_channel_scales(), smallest.double())
    return torch.quantize_per_channel(values, scales, weight.q_per_channel_zero_points(), 0, torch.qint8)


def rounded_bias(bias: Tensor, weight: Tensor, input_scale: float) -> Tensor:
    """Return a bias (C,) as float32 multiples of the scale of the sums of a layer with this quantized weight."""
    scale = sum_scale(weight, input_scale)
    return ((bias.double() / scale.double()).round() * scale.double()).float()


def sum_scale(weight: Tensor, input_scale: float) -> Tensor:
    """Return what one step of a layer's int32 sums is worth: float32, (C,) or a single number."""
    scale = weight.q_per_channel_scales() if _is_per_channel(weight) else torch.tensor(weight.q_scale())
    return scale.float() * torch.tensor(input_scale, dtype=torch.float32)


def _is_per_channel(weight: Tensor) -> bool:
    return weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)


class _InputScales(fx.Interpreter):
    """Runs an INT8 network and notes the scales of what goes into its layers with weights."""

    def __init__(self, converted: GraphModule) -> None:
        super().__init__(converted)
        self.of_layer: dict[str, set[float]] = {}

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module" and callable(getattr(self.fetch_attr(str(n.target)), "set_weight_bias", None)):
            arguments, _ = self.fetch_args_kwargs_from_env(n)
            self.of_layer.setdefault(str(n.target), set()).add(arguments[0].q_scale())
        return super().run_node(n)
