"""Decode the images of a source in threads, a bounded number at a time."""

import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.machine import usable_cores
from ptqflow.core.normalization import InputShape
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import digest_of
from ptqflow.fetch.splitting import Decode, Rows, Source

_AHEAD = 2  # of the source's steps in memory for each core
_PIXELS = 1 << 26  # of decoded images that wait to be written


@dataclass(frozen=True)
class Decoded:
    """Images, and what is known of each."""

    rows: Rows
    """(n,), their numbers in the source."""
    pixels: NDArray[np.uint8] | None
    """(n, height, width, channels); None if they are unreadable."""
    digests: list[bytes]
    counts: NDArray[np.int64]
    """(channels, 256): how often a channel of those that are counted has each value."""


def decode(source: Source, rows: Rows, counted: NDArray[np.bool_], shape: InputShape) -> Iterator[Decoded]:
    """Decode images in threads and yield them in the order in which the source yields them.

    Threads are as fast as processes on up to 4 cores, and gain up to 8: Pillow releases the interpreter lock while it
    decodes and resizes, hashlib while it hashes.

    Args:
        source: that reads.
        rows: numbers of the images.
        counted: by the number of an image, whether its values are counted.
        shape: of an image, by which the number that is in memory is bounded.
    """
    cores = usable_cores()
    ahead = min(_AHEAD * cores, images_together(shape[1:], _PIXELS))
    steps = source.read(rows)
    with (
        warnings.catch_warnings(action="ignore"),  # Pillow's, about files that it reads nevertheless
        ThreadPoolExecutor(cores) as threads,
    ):
        running = deque(threads.submit(_decode, *step, counted) for step in islice(steps, ahead))
        while running:
            yield running.popleft().result()
            running.extend(threads.submit(_decode, *step, counted) for step in islice(steps, 1))


def _decode(rows: Rows, decode: Decode, counted: NDArray[np.bool_]) -> Decoded:
    pixels = decode()
    if pixels is None:
        return Decoded(rows, None, [], np.zeros((1, 256), np.int64))
    digests = [digest_of(image) for image in pixels]
    return Decoded(rows, pixels, digests, _count_values(pixels[counted[rows]]))


def _count_values(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each channel of images (n, height, width, channels) has each value, (channels, 256)."""
    _, _, width, channels = images.shape
    rows = images.reshape((-1, width) if channels == 1 else (-1, width, channels))
    if not len(rows):  # of which Pillow makes no image
        return np.zeros((channels, 256), np.int64)
    # NumPy's bincount would hold the interpreter lock, and the values as int64.
    return np.array(Image.fromarray(rows).histogram(), np.int64).reshape(channels, 256)
