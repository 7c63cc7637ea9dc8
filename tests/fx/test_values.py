import torch
from torch import nn

from ptqflow.fx.values import step_values
from ptqflow.models.canonical import canonicalize


def test_each_step_has_its_value_by_the_name_of_its_module_or_node() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    images = torch.randn(2, 3, 8, 8)
    values = step_values(canonicalize(network, (3, 8, 8)), images)

    assert set(values) == {"input_1", "0", "1"}
    with torch.inference_mode():
        assert torch.equal(values["0"], network[0](images))
        assert torch.equal(values["1"], network(images))
