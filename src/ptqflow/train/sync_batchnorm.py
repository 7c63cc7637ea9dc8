"""Batch normalization over a batch that is spread over several ranks."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ptqflow.core.errors import ModelError


class SyncedBatchNorm(nn.SyncBatchNorm):
    """Batch normalization whose mean and variance are those of the values of all ranks, each of which has some.

    On GPUs torch's, which has no implementation for CPUs: there the same in plain operations.
    """

    def forward(self, given: Tensor) -> Tensor:
        """Normalize (N, channels, ...); in training mode by the batch, else by the running statistics."""
        if given.is_cuda or not self.training:
            return super().forward(given)
        values = given.float()
        others = [dim for dim in range(given.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(given.dim())]
        sums = _sum(torch.cat([values.sum(others), values.new_full((1,), values.numel() / values.shape[1])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = values - mean.view(shape)
        variance = _sum(centered.square().sum(others)) / count
        self._update_running(mean.detach(), variance.detach(), count)
        scaled = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(given.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (variance * count / (count - 1) - self.running_var)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all ranks; each rank's gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def synced(model: nn.Module) -> nn.Module:
    """Put a `SyncedBatchNorm` in the place of every batch normalization, in place, with its parameters and buffers.

    Raises:
        ModelError: one of them is a class of its own, whose `forward` would be lost.
    """
    if type(model) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return _synced(model)
    if isinstance(model, _BatchNorm) and not isinstance(model, nn.SyncBatchNorm):
        raise ModelError(
            f"{type(model).__name__} is a batch normalization of its own kind, which several devices cannot share; "
            "set train.sync_batchnorm=false, or train.devices and train.nodes to 1"
        )
    for name, child in model.named_children():
        setattr(model, name, synced(child))
    return model


def _synced(norm: Any) -> SyncedBatchNorm:
    new = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new._parameters, new._buffers, new.training = norm._parameters, norm._buffers, norm.training
    return new
