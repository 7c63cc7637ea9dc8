"""Batch normalization over a batch that is spread over several GPUs."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ptqflow.core.errors import ModelError

_CONVERTIBLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def synchronize(model: nn.Module) -> nn.Module:
    """Return the network with a `nn.SyncBatchNorm`, which runs on GPUs only, in place of every batch normalization.

    Parameters and buffers are the same tensors; the network is changed in place unless it is a batch normalization.

    Raises:
        ModelError: a batch normalization is of a subclass, whose `forward` would be lost.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module) not in _CONVERTIBLE:
            raise ModelError(
                f"{type(module).__name__} is a subclass of torch's batch normalization, which cannot be synchronized "
                "over several devices; set train.sync_batchnorm=false, or train.devices and train.nodes to 1"
            )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return converted
