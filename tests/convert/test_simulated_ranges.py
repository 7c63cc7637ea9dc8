import miniature
import pytest
import torch
from fresh_process import collect, convert_params
from torch import Tensor, nn

from ptqflow.convert.quantize import quantize
from ptqflow.convert.ranges import Levels, Range, to_qparams
from ptqflow.convert.simulated_ranges import SimulatedRanges
from ptqflow.models.canonical import canonicalize

NARROW = to_qparams(Range(-0.1, 0.1), Levels(255, symmetric=False))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return canonicalize(miniature.residual(6), miniature.INPUT_SHAPE)


def test_a_partial_pass_returns_what_a_whole_pass_with_that_range_returns(
    model: nn.Module, inputs: list[Tensor]
) -> None:
    made = quantize(model, miniature.card(), convert_params(), collect(model, inputs), miniature.split(40))
    partial, whole = SimulatedRanges(model, made.prepared), SimulatedRanges(model, made.prepared)
    with torch.inference_mode():
        before = partial.run_keeping(inputs[0])
        assert torch.equal(before, whole.run(inputs[0]))
        for tensor in partial.tensors:
            whole.set_ranges(made.qparams | dict.fromkeys(whole.sharing(tensor), NARROW))
            found = partial.with_range(tensor, NARROW)
            assert torch.equal(found, whole.run(inputs[0])), tensor
            assert not torch.equal(found, before), tensor


def test_tensors_that_share_a_range_are_listed_together_and_one_without_a_range_alone_not_at_all(
    model: nn.Module, inputs: list[Tensor]
) -> None:
    made = quantize(model, miniature.card(), convert_params(), collect(model, inputs), miniature.split(40))
    simulated = SimulatedRanges(model, made.prepared)
    assert all(tensor in simulated.sharing(tensor) for tensor in simulated.tensors)
    assert simulated.sharing("no such tensor") == []
