"""The observer that chooses the scales of weights, while convert_fx runs."""

from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import ObserverBase

# Of the largest weight, that are tried as the end of the range; at the last one it has a code, the 127th, exactly.
_SHARES = [*torch.linspace(0.5, 1, 101).tolist(), 127.5 / 127]
_SMALLEST_SCALE = torch.finfo(torch.float32).eps
_CHUNK = 1 << 16  # weights that are tried together: what fits the cache


class MseWeightObserver(ObserverBase):
    """Chooses int8 scales, symmetric around zero, with the least squared error of quantize-dequantize.

    Args:
        per_channel: one scale for each output channel, the first dimension; else one for all.
    """

    def __init__(self, per_channel: bool) -> None:
        super().__init__(dtype=torch.qint8)
        self.qscheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
        self.ch_axis = 0
        self.quant_min, self.quant_max = -128, 127
        self.scale = torch.ones(1)

    def forward(self, weight: Tensor) -> Tensor:
        """Take the weight of a layer, whose first dimension is its output channels."""
        per_channel = self.qscheme == torch.per_channel_symmetric
        self.scale = mse_weight_scale(weight.detach().flatten(1) if per_channel else weight.detach().reshape(1, -1))
        return weight

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the scales, float32 (channels,) or (1,), and as many zero points of 0."""
        return self.scale, torch.zeros_like(self.scale, dtype=torch.int64)


def mse_weight_scale(rows: Tensor) -> Tensor:
    """Return for each row of float32 (channels, weights) the scale with the least squared error, (channels,)."""
    parts = rows.split(max(1, _CHUNK // rows.shape[1]))
    return torch.cat([_search(part, (part.abs().amax(dim=1) / 127.5).clamp_min(_SMALLEST_SCALE)) for part in parts])


def _search(rows: Tensor, widest: Tensor) -> Tensor:
    """Try shares of `widest`, the scales (channels,) that torch's symmetric observers of int8 choose."""
    best, least = widest, torch.full_like(widest, torch.inf)
    for share in _SHARES:
        scale = (share * widest).clamp_min(_SMALLEST_SCALE)
        codes = (rows / scale[:, None]).round_().clamp_(-128, 127)
        error = codes.mul_(scale[:, None]).sub_(rows).square_().sum(dim=1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
