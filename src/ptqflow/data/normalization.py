"""From stored uint8 images to what a network takes, with NumPy; `data.preprocessing` does the same with torch."""

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.normalization import Channels, Normalization


def normalize(images: NDArray[np.uint8], normalization: Normalization) -> NDArray[np.float32]:
    """Scale and normalize images (N, H, W, C) to (N, C, H, W): `preprocessing.to_input`, bit for bit."""
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(normalization.divisor)
    return (scaled - _per_channel(normalization.mean)) / _per_channel(normalization.std)


def _per_channel(values: Channels) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)
