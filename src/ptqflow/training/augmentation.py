"""Random crop and flip of a whole batch, each image its own."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Surround uint8 images (N, H, W, C) with `padding` black pixels and crop each back to (H, W) at its own place.

    As torchvision's `RandomCrop(size, padding)`. `generator` lives on the CPU, so every device draws the same places.
    """
    count, height, width, _ = images.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    rows = (offsets[0] + torch.arange(height, device=images.device))[:, :, None]
    columns = (offsets[1] + torch.arange(width, device=images.device))[:, None, :]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (N, H, W, C) left to right with probability 1/2."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(2), images)
