"""From stored images to what a network takes."""

from functools import lru_cache

import torch
from torch import Tensor

from ptqflow.core.normalization import Normalization
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Split


def to_input(
    images: Tensor,
    normalization: Normalization,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Scale uint8 images (N, H, W, C) to their range and normalize them to float32 (N, C, H, W), on their device.

    The arithmetic is that of torchvision's `ToTensor` and `Normalize`, bit for bit. In `channels_last`, as images are
    stored, it is several times as fast.
    """
    mean, std = _on_device(normalization, images.device)
    if memory_format == torch.channels_last:
        _, _, width, channels = images.shape
        rows = images.reshape(-1, width * channels).to(torch.float32)  # long rows, to be worked on as vectors
        scaled = rows.div_(normalization.divisor).sub_(mean.repeat(width)).div_(std.repeat(width))
        return scaled.view(images.shape).permute(0, 3, 1, 2)
    scaled = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / normalization.divisor
    return (scaled - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def first_images(split: Split, normalization: Normalization) -> Tensor:
    """Return the first images of a split, normalized: at most 32, and as many as 2**19 pixels hold."""
    count = min(32, images_together(split.size, 1 << 19))
    return to_input(torch.from_numpy(split.read(slice(count))), normalization)


@lru_cache(maxsize=16)  # a copy to a GPU would wait for it, and cannot be part of a CUDA graph
def _on_device(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(channels, device=device) for channels in (normalization.mean, normalization.std))
    return mean, std
