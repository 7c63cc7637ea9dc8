"""Random crop, flip and cutout of a whole batch, each image its own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Draws:
    """The random draws of one epoch: the same on every device and for any number of ranks."""

    order: Tensor
    """int64 (N,), rows of the split in the order in which they are seen."""
    places: Tensor
    """int64 (N, 2), top and left corner of each crop, 0 to twice the padding."""
    mirrored: Tensor
    """bool (N,)."""
    hidden: Tensor
    """float32 (N, 2), center of the cutout, in heights and widths of the image: 0 to 1, without 1."""

    def __getitem__(self, rows: slice) -> "Draws":
        return self._each(lambda drawn: drawn[rows])

    def to(self, device: torch.device) -> "Draws":
        """Return the draws on another device."""
        return self._each(lambda drawn: drawn.to(device))

    def clone(self) -> "Draws":
        """Return a copy of the tensors."""
        return self._each(Tensor.clone)

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Draws":
        return Draws(*map(function, (self.order, self.places, self.mirrored, self.hidden)))


def draw_epoch(count: int, padding: int, flip: bool, seed: int, epoch: int) -> Draws:
    """Draw the order of `count` images, and for each where to crop, whether to mirror and what to hide.

    They depend on the arguments alone, so that a training that is resumed continues with the same draws.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
    return Draws(
        torch.randperm(count, generator=generator),
        torch.randint(0, 2 * padding + 1, (count, 2), generator=generator),
        torch.rand(count, generator=generator) < (0.5 if flip else 0),
        torch.rand(count, 2, generator=generator),
    )


def crop_and_flip(images: Tensor, places: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Surround uint8 images (N, H, W, C) with black, crop each to (H, W) at its own place, and mirror some.

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


def cut_out(inputs: Tensor, hidden: Tensor, side: int) -> None:
    """Set a square of each input to 0, the mean of the images, in place; the square is clipped at the edges.

    As Cutout (DeVries and Taylor, arXiv:1708.04552), with an even side there.

    Args:
        inputs: float (N, C, H, W), normalized.
        hidden: float32 (N, 2), centers of the squares, as in `Draws`.
        side: side of the square in pixels.
    """
    rows, columns = (_within(hidden[:, axis], size, side) for axis, size in enumerate(inputs.shape[2:]))
    inputs.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _within(centers: Tensor, size: int, side: int) -> Tensor:
    """Return which of `size` pixels in a row lie in the interval of `side` pixels: bool (N, size)."""
    first = (centers * size).long() - side // 2
    pixel = torch.arange(size, device=centers.device) - first[:, None]
    return (pixel >= 0) & (pixel < side)
