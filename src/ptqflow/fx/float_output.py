"""Layers with int8 weights that take INT8 values and return what their sums are worth, without rounding it.

Where a step such as Hardswish or LayerNorm follows a layer, the kernels of torch round twice, before it and after it.
ONNX Runtime and OpenVINO compute it on the sums. `convert_fx` leaves a reference module in such a place, whose weights
are float; here they are what the kernels have.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU1d, ConvReLU2d, ConvReLU3d, LinearReLU
from torch.ao.nn.quantized import reference
from torch.fx import GraphModule
from torch.nn import functional as F

_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


class FloatOutput(nn.Module):
    """A convolution or linear layer in float arithmetic, exact to its rounding, of dequantized values and weights.

    Args:
        layer: torch's reference module, of a network in its canonical form, in which padding is with zeros.
        relu: whether ReLU follows.
    """

    weight: Tensor
    """int8, (output channels, …)."""
    scale: Tensor
    """float32, by which the weight is to be multiplied."""
    bias: Tensor | None

    def __init__(self, layer: Any, *, relu: bool) -> None:
        super().__init__()
        assert getattr(layer, "padding_mode", "zeros") == "zeros"
        quantized = layer.get_quantized_weight()
        per_channel = quantized.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scale = quantized.q_per_channel_scales() if per_channel else torch.tensor([quantized.q_scale()])
        self.relu = relu
        self.kind: type[nn.Module] = next(kind for kind in (*_CONVOLUTIONS, nn.Linear) if isinstance(layer, kind))
        self.options = (
            {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
            if self.is_convolution
            else {}
        )
        self.register_buffer("weight", quantized.int_repr())
        self.register_buffer("scale", scale.float().reshape(-1, *[1] * (quantized.dim() - 1)))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    @property
    def is_convolution(self) -> bool:
        """Whether it is no linear layer."""
        return self.kind is not nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 values for float32 values."""
        return self.compute(x, self.weight.type_as(x) * self.scale)  # of x, or torch.jit.freeze would fold it

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return what the layer returns with this weight, dequantized, in place of its own."""
        if self.is_convolution:
            result = _CONVOLUTIONS[self.kind](x, weight, self.bias, **self.options)
        else:
            result = F.linear(x, weight, self.bias)
        return F.relu(result) if self.relu else result

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *options: Any) -> None:
        bias = state_dict.get(f"{prefix}bias")
        if self.bias is None and bias is not None:  # bias correction added one
            self.bias = torch.zeros_like(bias)
        super()._load_from_state_dict(state_dict, prefix, *options)

    def extra_repr(self) -> str:
        """Return what it is."""
        return f"{self.kind.__name__}, {tuple(self.weight.shape)}, relu={self.relu}"


def without_relu(module: nn.Module) -> nn.Module:
    """Return the layer in a module into which ReLU alone is fused, another module unchanged."""
    return module[0] if isinstance(module, ConvReLU1d | ConvReLU2d | ConvReLU3d | LinearReLU) else module


def replace_reference_layers(converted: GraphModule) -> None:
    """Put a `FloatOutput` in the place of each reference module with weights, in place."""
    kinds = (reference.Conv1d, reference.Conv2d, reference.Conv3d, reference.Linear)
    for node in converted.graph.nodes:
        if node.op == "call_module":
            module = converted.get_submodule(str(node.target))
            layer = without_relu(module)
            if isinstance(layer, kinds):
                converted.set_submodule(str(node.target), FloatOutput(layer, relu=layer is not module))
