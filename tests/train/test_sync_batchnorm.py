"""The conversion; training with it on several GPUs is in test_gpus.py."""

import miniature
import pytest
import torch
from torch import Tensor, nn

from ptqflow.core.errors import ModelError
from ptqflow.train.sync_batchnorm import synchronize


def test_every_batch_normalization_becomes_torchs_synchronized_one() -> None:
    model = nn.Sequential(
        nn.BatchNorm1d(3, eps=0.1, momentum=0.2), nn.Sequential(nn.BatchNorm2d(4, affine=False)), nn.BatchNorm3d(5)
    )

    synchronize(model)

    norms = [model[0], model[1][0], model[2]]
    assert [type(norm) for norm in norms] == [nn.SyncBatchNorm] * 3
    assert (norms[0].eps, norms[0].momentum, norms[1].affine) == (0.1, 0.2, False)


def test_parameters_buffers_and_the_names_of_the_state_stay() -> None:
    model = miniature.residual(4)
    names, tensors = list(model.state_dict()), [*model.parameters(), *model.buffers()]

    assert synchronize(model) is model

    assert list(model.state_dict()) == names
    assert all(one is other for one, other in zip([*model.parameters(), *model.buffers()], tensors, strict=True))


def test_in_evaluation_mode_it_computes_what_batch_normalization_does_also_on_a_cpu() -> None:
    model = miniature.residual(4).eval()
    inputs = torch.randn(5, 3, miniature.SIZE, miniature.SIZE, generator=torch.Generator().manual_seed(0))
    expected = model(inputs)

    assert torch.equal(synchronize(model)(inputs), expected)


def test_a_subclass_is_refused_because_its_forward_would_be_lost() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, given: Tensor) -> Tensor:
            return super().forward(given).relu()

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Activated(4))
    with pytest.raises(ModelError, match=r"Activated is a subclass of .*; set train\.sync_batchnorm=false"):
        synchronize(model)


def test_a_network_that_is_synchronized_already_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    assert isinstance(synchronize(model)[1], nn.SyncBatchNorm)
