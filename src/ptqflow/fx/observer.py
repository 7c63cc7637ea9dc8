"""The observers that torch.ao converts by: they hold what was chosen elsewhere, and look at no value themselves."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import ObserverBase

WeightScales = Callable[[Tensor], Tensor]
"""Of float32 rows (channels, weights): a scale for each, float32 (channels,)."""


def unit_scales(rows: Tensor) -> Tensor:
    """Return 1 for each row: for a network whose weights, scales included, are loaded afterwards."""
    return torch.ones(len(rows))


class RangeObserver(ObserverBase):
    """Marks a tensor to be quantized to quint8 and holds its scale and zero point, 1 and 0 until they are set.

    Args:
        quant_max: largest quantized level, 255, or 127 to use 7 of 8 bits.
    """

    def __init__(self, quant_max: int = 255) -> None:
        super().__init__(dtype=torch.quint8)
        self.qscheme = torch.per_tensor_affine
        self.quant_min, self.quant_max = 0, quant_max
        self.scale, self.zero_point = 1.0, 0

    def forward(self, values: Tensor) -> Tensor:
        """Return the values unchanged."""
        return values

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the scale as float32 (1,) and the zero point as int32 (1,)."""
        return torch.tensor([self.scale]), torch.tensor([self.zero_point], dtype=torch.int32)


class WeightObserver(ObserverBase):
    """Quantizes a weight to int8, symmetric around zero, with the scales that a function chooses.

    Args:
        per_channel: one scale for each output channel, the first dimension; else one for all.
        scales: called with the weight as (channels, weights), or as (1, weights) for one scale.
    """

    def __init__(self, per_channel: bool, scales: WeightScales) -> None:
        super().__init__(dtype=torch.qint8)
        self.qscheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
        self.ch_axis = 0
        self.quant_min, self.quant_max = -128, 127
        self.scale = torch.ones(1)
        self._scales = scales

    def forward(self, weight: Tensor) -> Tensor:
        """Choose the scales of a weight, whose first dimension is its output channels, and return it unchanged."""
        per_channel = self.qscheme == torch.per_channel_symmetric
        self.scale = self._scales(weight.detach().flatten(1) if per_channel else weight.detach().reshape(1, -1))
        return weight

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the scales, float32 (channels,) or (1,), and as many zero points of 0."""
        return self.scale, torch.zeros_like(self.scale, dtype=torch.int64)
