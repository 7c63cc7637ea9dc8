"""What depends on weights alone is computed once."""

from collections.abc import Callable

import pytest
import torch
from bodies import INPUT_SHAPE, called, holding, logits
from torch import Tensor
from torch.nn import functional as F

from ptqflow.models.canonical import canonicalize


def standardized(x: Tensor, weight: Tensor) -> Tensor:
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
    return F.conv2d(x, (weight - mean) / torch.sqrt(variance + 1e-5), padding=1)


WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "several results": standardized,
    "chunks": lambda x, w: F.conv2d(x, torch.cat(w.chunk(2)[::-1]), padding=1),
    "unpacked chunks": lambda x, w: F.conv2d(x, torch.cat([*w.split([2, 4])]), padding=1),
    "own shape": lambda x, w: F.conv2d(x, w.view(w.shape[0], -1).flip(1).view(w.shape), padding=1),
    "own size": lambda x, w: F.conv2d(x, w.reshape(w.size(0) * w.size(1), -1).softmax(1).view_as(w), padding=1),
    "own number of dimensions": lambda x, w: F.conv2d(x, w / w.dim() / len(w), padding=1),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_a_computed_weight_is_one_of_a_module(name: str, kind: str) -> None:
    network = holding((6, 6, 3, 3), WEIGHTS[name])
    if kind == "parameter":
        holder = network.parts[0]
        held = holder._buffers.pop("held")
        holder.held = torch.nn.Parameter(held)

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert called(canonical) == ["Conv2d", "Conv2d", "Conv2d", "flatten"]
