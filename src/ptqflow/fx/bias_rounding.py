"""Biases that every integer kernel can hold.

ONNX Runtime adds the bias to int32 sums, so it rounds it to whole steps of them; oneDNN and OpenVINO add it in float.
The rounding is far below a step of the output, yet over the layers of a network it grows: of the labels of a ResNet-18
on CIFAR-10, torch and ONNX Runtime differed in 0.8 % with it in one of them alone, and in 0.07 % with it in both.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node

from ptqflow.fx.prepare import without_torch_warnings


def round_biases(converted: GraphModule, image_size: int) -> None:
    """Round the bias of each INT8 layer, in place, to a multiple of the scale of its sums."""
    scales = _InputScales(converted)
    with without_torch_warnings(), torch.inference_mode():
        scales.run(torch.zeros(2, 3, image_size, image_size))
    for name, found in scales.of_layer.items():
        layer: Any = converted.get_submodule(name)
        if len(found) == 1 and layer.bias() is not None:  # else it runs on inputs of different scales
            layer.set_weight_bias(layer.weight(), rounded_bias(layer.bias(), layer.weight(), *found))


def rounded_bias(bias: Tensor, weight: Tensor, input_scale: float) -> Tensor:
    """Return a bias (C,) as float32 multiples of the scale of the sums of a layer with this quantized weight."""
    scale = sum_scale(weight, input_scale)
    return ((bias.double() / scale.double()).round() * scale.double()).float()


def sum_scale(weight: Tensor, input_scale: float) -> Tensor:
    """Return what one step of a layer's int32 sums is worth: float32, (C,) or a single number."""
    per_channel = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
    scale = weight.q_per_channel_scales() if per_channel else torch.tensor(weight.q_scale())
    return scale.float() * torch.tensor(input_scale, dtype=torch.float32)


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
