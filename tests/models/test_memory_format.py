import torch
from torch import nn

from ptqflow.models.memory_format import lay_out


def test_only_4d_weights_are_laid_out_and_values_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(3, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}

    lay_out(network, torch.channels_last)

    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    lay_out(network, torch.contiguous_format)
    assert network[0].weight.is_contiguous()
