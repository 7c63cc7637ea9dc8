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
