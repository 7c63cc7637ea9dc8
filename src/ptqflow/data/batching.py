"""How many images are processed together."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS_PER_BLOCK = 1 << 21
_PIXELS_PER_PASS = 1 << 20  # 12 MiB of float32 input in RGB; with its activations, a ResNet-50 takes a GiB


def images_together(size: tuple[int, int], pixels: int) -> int:
    """Return how many images are processed together: as many as `pixels` pixels hold, and at least one.

    Memory is then bounded whatever their size. No result may depend on the number.

    Args:
        size: height and width of each image in pixels.
        pixels: budget of the computation, over all images.
    """
    return max(1, pixels // (size[0] * size[1]))


def images_per_pass(size: tuple[int, int], most: int) -> int:
    """Return how many images go through a network together, without gradients: `most`, or fewer if large.

    Args:
        size: height and width of each image in pixels.
        most: the number where memory allows it.
    """
    return min(most, images_together(size, _PIXELS_PER_PASS))


def in_blocks(function: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[Any]:
    """Apply a function to blocks of rows and concatenate what it returns, so that its memory is bounded.

    Args:
        function: of blocks of all arrays, that returns a row for each of theirs.
        arrays: (N, …) each; the first decides how many rows make a block.
    """
    rows = len(arrays[0])
    step = max(1, _NUMBERS_PER_BLOCK // max(1, arrays[0][:1].size))
    blocks = (slice(start, start + step) for start in range(0, max(rows, 1), step))
    return np.concatenate([function(*(array[block] for array in arrays)) for block in blocks])
