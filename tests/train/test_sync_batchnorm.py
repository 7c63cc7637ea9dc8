"""Against torch's own; that several ranks give the same is in test_ranks.py."""

import copy
from collections.abc import Iterator

import miniature
import pytest
import torch
from torch import nn

from ptqflow.core.errors import ModelError
from ptqflow.train.sync_batchnorm import SyncedBatchNorm, synced


@pytest.fixture(autouse=True)
def _group_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


NORMS = {
    "2d": (nn.BatchNorm2d(5), (7, 5, 4, 3)),
    "1d": (nn.BatchNorm1d(5), (9, 5)),
    "3d": (nn.BatchNorm3d(5), (2, 5, 2, 3, 2)),
    "cumulative": (nn.BatchNorm2d(5, momentum=None), (7, 5, 4, 3)),
    "not affine": (nn.BatchNorm2d(5, affine=False), (7, 5, 4, 3)),
    "without running statistics": (nn.BatchNorm2d(5, track_running_stats=False), (7, 5, 4, 3)),
}


@pytest.mark.parametrize(("norm", "shape"), NORMS.values(), ids=NORMS)
def test_outputs_gradients_and_running_statistics_are_torchs(norm: nn.Module, shape: tuple[int, ...]) -> None:
    theirs = miniature.vary(copy.deepcopy(norm)) if norm.track_running_stats and norm.affine else copy.deepcopy(norm)
    ours = synced(copy.deepcopy(theirs))
    assert isinstance(ours, SyncedBatchNorm)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        values = torch.randn(shape, generator=generator) * 3 + 50
        gradient = torch.randn(shape, generator=generator)
        results = []
        for module in (theirs, ours):
            leaf = values.clone().requires_grad_()
            output = module(leaf)
            output.backward(gradient)
            results.append((output, leaf.grad, *(parameter.grad for parameter in module.parameters())))
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, expected in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], expected)
    theirs.eval()
    ours.eval()
    torch.testing.assert_close(ours(values), theirs(values))


def test_a_network_keeps_its_parameters_and_the_names_of_its_state() -> None:
    model = miniature.residual(4)
    names, parameters = list(model.state_dict()), list(model.parameters())

    synced(model)

    assert isinstance(model.bn1, SyncedBatchNorm)
    assert list(model.state_dict()) == names
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_a_kind_of_its_own_is_refused_for_its_forward_would_be_lost() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return super().forward(given).relu()

    with pytest.raises(
        ModelError, match=r"Activated is a batch normalization of its own kind, .*; set train\.sync_batchnorm=false"
    ):
        synced(nn.Sequential(nn.Conv2d(3, 4, 1), Activated(4)))
