"""The order of weights in memory."""

import torch
from torch import nn


def to_channels_last(network: nn.Module) -> None:
    """Lay out the 4-D weights of a network channels last, in place, as CPU kernels of 2-D convolutions are fastest."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
