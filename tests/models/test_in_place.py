"""Nothing works in place, and what reads an overwritten value reads the result."""

from collections.abc import Callable

import pytest
import torch
from bodies import INPUT_SHAPE, built, called, conv, logits
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.models.canonical import canonicalize

FUNCTIONS = [
    *(F.hardtanh_, F.leaky_relu_, F.elu_, F.selu_, F.celu_, F.rrelu_, F.relu_),
    *(torch.sigmoid_, torch.tanh_, torch.relu_, torch.abs_),
    lambda x: F.threshold_(x, 0.1, 0.2),
    lambda x: F.hardswish(x, inplace=True),
    lambda x: F.silu(x, True),
    lambda x: torch.clamp_(x, -0.5, 0.5),
    lambda x: x.masked_fill_(x > 0, 0.3),
    lambda x: x.clamp_min_(0),
    lambda x: x.add_(1).mul_(2),
    lambda x: torch.empty_like(x).copy_(x[:, :1]) + x,
    lambda x: x + torch.empty_like(x).fill_(2) + torch.empty_like(x).zero_(),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_in_place_is_one_that_is_not_and_what_reads_its_input_reads_its_result(
    function: Callable[[Tensor], Tensor],
) -> None:
    network = built(lambda x: function(x) * 2 + x)

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert not any(name.endswith("_") for name in called(canonical))
    assert not any(True in node.kwargs.values() for node in canonical.graph.nodes)


def test_the_result_of_a_function_in_place_may_go_unused() -> None:
    def overwritten(x: Tensor) -> Tensor:
        x.clamp_(0)
        F.hardtanh_(x)
        return x

    network = built(overwritten)
    assert torch.equal(logits(canonicalize(network, INPUT_SHAPE)), logits(network))


def test_each_call_of_one_activation_in_place_counts() -> None:
    network = built(lambda x, act, c: (lambda y: act(y) + y)(c(act(x))), nn.ReLU(inplace=True), conv())

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert network.parts[0].inplace
    assert not any(getattr(module, "inplace", False) for module in canonical.modules())
