"""Options and modules that INT8 kernels or ONNX do not have, as steps and modules that they do."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from ptqflow.models.layer_modules import make_batch_norm
from ptqflow.models.nodes import calls, function_name, replace, set_module
from ptqflow.models.shaped_tracer import SHAPE

_AFFINE = ("weight", "bias")


def pad_explicitly(network: GraphModule) -> None:
    """Pad before a convolution where it pads other than with zeros alike on both sides."""
    for node, conv in calls(network, nn.modules.conv._ConvNd):
        if isinstance(conv, nn.modules.conv._ConvTransposeNd) or (
            conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        ):
            continue
        amounts = list(conv._reversed_padding_repeated_twice)
        is_even = amounts[::2] == amounts[1::2]
        plain = copy.copy(conv)
        plain.padding_mode = "zeros"
        if is_even and conv.padding_mode == "zeros":
            plain.padding = tuple(reversed(amounts[::2]))
        else:
            plain.padding = (0,) * len(conv.kernel_size)
            _insert_pad(network, node, amounts, "constant" if conv.padding_mode == "zeros" else conv.padding_mode)
        plain._reversed_padding_repeated_twice = [amount for amount in reversed(plain.padding) for _ in range(2)]
        set_module(network, str(node.target), plain)


def average_whole_windows(network: GraphModule) -> None:
    """Average over whole windows where a pooling counts otherwise, and scale each mean to its own count."""
    for node, pool in calls(network, nn.AvgPool2d):
        if not pool.ceil_mode and pool.divisor_override is None:
            continue
        size = node.all_input_nodes[0].meta[SHAPE][-2:]
        kernel, stride, padding = (_pair(each) for each in (pool.kernel_size, pool.stride, pool.padding))
        ones = torch.ones(1, 1, *size)
        means, amounts = pool(ones), []
        for axis in (1, 0):  # as F.pad takes them, from the last dimension on
            reach = (means.shape[2 + axis] - 1) * stride[axis] + kernel[axis]
            amounts += [padding[axis], max(0, reach - size[axis] - padding[axis])]
        plain = nn.AvgPool2d(kernel, stride)
        set_module(network, str(node.target), plain)
        factors = means / plain(F.pad(ones, amounts))
        if any(amounts):
            _insert_pad(network, node, amounts, "constant")
        if (factors != 1).any():
            _insert_scale(network, node, factors)


def normalize_explicitly(network: GraphModule) -> None:
    """Replace normalizations whose statistics are not what the layer's kind says, in evaluation mode, and RMSNorm."""
    for node, norm in calls(network, nn.modules.batchnorm._NormBase):
        is_instance = isinstance(norm, nn.modules.instancenorm._InstanceNorm)
        if not is_instance and norm.running_mean is None:
            affine = [_attribute(network, node, name) if norm.affine else None for name in _AFFINE]
            _call(node, normalize_by_batch, *affine, norm.eps)
        elif is_instance:
            tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            if plain := make_batch_norm(len(node.meta[SHAPE]), tensors, norm.eps):
                set_module(network, str(node.target), plain)
    for node, norm in calls(network, nn.RMSNorm):
        weight = None if norm.weight is None else _attribute(network, node, "weight")
        _call(node, normalize_by_root_mean_square, len(norm.normalized_shape), weight, norm.eps)


def write_for_onnx(network: GraphModule) -> None:
    """Replace modules and functions without an ONNX operator by equal steps."""
    for node, threshold in calls(network, nn.Threshold):
        _fill(node, threshold.threshold, threshold.value)
    for node, shuffle in calls(network, nn.ChannelShuffle):
        _shuffle(node, shuffle.groups)
    for node in list(network.graph.nodes):
        if node.op == "call_function" and (write := _WRITTEN.get(function_name(node))):
            write(node, *node.args[1:], **{key: value for key, value in node.kwargs.items() if key != "inplace"})


def _fill(node: Node, threshold: float, value: float) -> None:
    replace(node, lambda x: x.masked_fill(x <= threshold, value))


def _shuffle(node: Node, groups: int) -> None:
    _, channels, *sizes = node.meta[SHAPE]
    replace(
        node,
        lambda x: x.reshape(-1, groups, channels // groups, *sizes).transpose(1, 2).reshape(-1, channels, *sizes),
    )


def _transpose(node: Node, attribute: str) -> None:
    if attribute == "mT":
        replace(node, lambda x: x.transpose(-2, -1))


def _normalize(node: Node, normalized_shape: Any, weight: Node | None = None, eps: float | None = None) -> None:
    _call(node, normalize_by_root_mean_square, len(normalized_shape), weight, eps)


_WRITTEN: dict[str, Callable[..., None]] = {
    "_threshold": _fill,
    "threshold": _fill,
    "channel_shuffle": _shuffle,
    "getattr": _transpose,
    "rms_norm": _normalize,
}
"""What replaces a function, by its name."""


def _insert_pad(network: GraphModule, node: Node, amounts: list[int], mode: str) -> None:
    source = node.all_input_nodes[0]
    with network.graph.inserting_before(node):
        padded = network.graph.call_function(F.pad, (source, amounts), {"mode": mode})
    padded.meta = dict(node.meta)
    node.replace_input_with(source, padded)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _insert_scale(network: GraphModule, node: Node, factors: Tensor) -> None:
    """Multiply what a step returns by constants."""
    name = f"{node.name}_factors"
    network.register_buffer(name, factors)
    with network.graph.inserting_after(node):
        constant = network.graph.get_attr(name)
    with network.graph.inserting_after(constant):
        scaled = network.graph.call_function(torch.mul, (node, constant))
    constant.meta, scaled.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


def _attribute(network: GraphModule, node: Node, name: str) -> Node:
    with network.graph.inserting_before(node):
        return network.graph.get_attr(f"{node.target}.{name}")


def _call(node: Node, function: Any, *arguments: Any) -> None:
    """Replace a step by a call of a function of its input."""
    with node.graph.inserting_before(node):
        call = node.graph.call_function(function, (node.all_input_nodes[0], *arguments))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def normalize_by_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return float32 values (N, C, ...) normalized by mean and variance of each channel over the batch."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0, keepdim=True)
    normalized = (x - mean) * torch.rsqrt(variance + eps)
    if weight is None or bias is None:
        return normalized
    shape = (1, -1, *(1,) * (x.dim() - 2))
    return normalized * weight.view(shape) + bias.view(shape)


def normalize_by_root_mean_square(x: Tensor, rank: int, weight: Tensor | None, eps: float | None) -> Tensor:
    """Return float32 values (..., *shape) divided by their root mean square over the last `rank` dimensions."""
    mean = x.square().mean(tuple(range(-rank, 0)), keepdim=True)
    normalized = x * torch.rsqrt(mean + (torch.finfo(x.dtype).eps if eps is None else eps))
    return normalized if weight is None else normalized * weight
