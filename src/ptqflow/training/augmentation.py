"""Random crop and flip of a whole batch, each image its own."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Draws:
    """What chance decides of one epoch: the same on every device and for any number of ranks."""

    order: Tensor
    """int64 (N,), rows of the split in the order in which they are seen."""
    places: Tensor
    """int64 (N, 2), top and left corner of each crop, 0 to twice the padding."""
    mirrored: Tensor
    """bool (N,)."""

    def __getitem__(self, part: slice) -> "Draws":
        return Draws(self.order[part], self.places[part], self.mirrored[part])

    def to(self, device: torch.device) -> "Draws":
        """Return them on another device."""
        return Draws(self.order.to(device), self.places.to(device), self.mirrored.to(device))


def draw_epoch(count: int, padding: int, flip: bool, seed: int, epoch: int) -> Draws:
    """Shuffle `count` images, and draw a place for each crop and whether to mirror.

    An epoch's draws depend on nothing but the arguments, so that a training that was killed goes on with the same.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
    return Draws(
        torch.randperm(count, generator=generator),
        torch.randint(0, 2 * padding + 1, (count, 2), generator=generator),
        torch.rand(count, generator=generator) < (0.5 if flip else 0),
    )


def crop_and_flip(images: Tensor, places: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Surround uint8 images (N, H, W, C) with black, cut each back to (H, W) at its own place, and mirror some.

    As torchvision's `RandomCrop(size, padding)` and `RandomHorizontalFlip`, on any device.

    Args:
        images: uint8 (N, H, W, C).
        places: int64 (N, 2), top and left corner of each crop, 0 to twice the padding.
        mirrored: bool (N,).
        padding: pixels on each side.
    """
    count, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    place = torch.arange(max(count, height, width), device=images.device)
    columns = torch.where(mirrored[:, None], width - 1 - place[:width], place[:width]) + places[:, 1:]
    rows = place[:height] + places[:, :1] + place[:count, None] * (height + 2 * padding)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, pixels.view(-1)).view(images.shape)
