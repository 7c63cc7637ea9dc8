"""The order of weights in memory."""

import torch
from torch import nn


def lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the 4-D weights of a network in place; `channels_last` is fastest for 2-D convolutions on CPUs.

    The order decides which kernel computes, and so the last bits of the output.
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


_BLOCK = 16
"""Channels that oneDNN's kernels work on together with AVX-512; 8 with AVX2."""


def training_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the order in which a network can be trained: `channels_last`, unless oneDNN's gradients are wrong in it.

    For the weights of a strided 1x1 convolution of fewer channels than a block, it writes past its buffer on CPUs, so
    that the process is killed or gradients are wrong: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    if device.type == "cpu" and any(map(_overflows, network.modules())):
        return torch.contiguous_format
    return torch.channels_last


def _overflows(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and all(size == 1 for size in layer.kernel_size)
        and any(step > 1 for step in layer.stride)
        and layer.in_channels // layer.groups < _BLOCK
    )
