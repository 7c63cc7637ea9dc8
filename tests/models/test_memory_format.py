import pytest
import torch
from torch import nn

from ptqflow.models.memory_format import lay_out, training_format


def test_only_4d_weights_are_laid_out_and_values_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(3, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}

    lay_out(network, torch.channels_last)

    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    lay_out(network, torch.contiguous_format)
    assert network[0].weight.is_contiguous()


@pytest.mark.parametrize(
    ("conv", "device", "expected"),
    [
        (nn.Conv2d(3, 48, 1, stride=2), "cpu", torch.contiguous_format),
        (nn.Conv2d(64, 128, 1, stride=(1, 2), groups=8), "cpu", torch.contiguous_format),
        (nn.Conv2d(3, 48, 1, stride=2), "cuda", torch.channels_last),
        (nn.Conv2d(3, 48, 1), "cpu", torch.channels_last),
        (nn.Conv2d(3, 48, 3, stride=2), "cpu", torch.channels_last),
        (nn.Conv2d(16, 48, 1, stride=2), "cpu", torch.channels_last),
    ],
)
def test_a_strided_pointwise_convolution_of_few_channels_is_trained_contiguous_on_cpus(
    conv: nn.Module, device: str, expected: torch.memory_format
) -> None:
    assert training_format(nn.Sequential(nn.Sequential(conv), nn.ReLU()), torch.device(device)) == expected
