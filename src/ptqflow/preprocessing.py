"""From stored images to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_input(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale uint8 images (N, H, W, 3) to 0..1 and normalize them to float32 (N, 3, H, W), on their device.

    The arithmetic is that of torchvision's `ToTensor` and `Normalize`, bit for bit.
    """
    scaled = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    shape = (1, -1, 1, 1)
    return (scaled - scaled.new_tensor(mean).view(shape)) / scaled.new_tensor(std).view(shape)
