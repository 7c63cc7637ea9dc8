"""From uint8 images to what a network takes, without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def normalize(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale images (N, H, W, 3) to 0..1 and normalize them to (N, 3, H, W): `preprocessing.to_input`, bit for bit."""
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
    return (scaled - _per_channel(mean)) / _per_channel(std)


def _per_channel(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)
