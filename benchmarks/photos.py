"""Synthetic photos as JPEG files, a folder for each class: noise with the spectrum of photos, and sharp shapes."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ptqflow.core.machine import usable_cores

SIZES = ((500, 375), (500, 333), (375, 500), (500, 375), (640, 480), (500, 375), (500, 334), (375, 500), (1024, 768))
"""Width and height in turn: mostly those of ImageNet, whose mean is about 400x350 pixels."""
_LARGE, _EACH = (4032, 3024), 500  # of a phone, one in so many
_QUALITY, _CONTRAST, _SHAPES = 90, 60, 6
_VARIANTS = 16  # textures of each size, since drawing one takes ten times as long as encoding it


def write_photos(folder: Path, count: int, classes: int) -> Path:
    """Write `count` photos into folders of `classes` classes in turn, those that are missing; the same ones every time.

    Returns:
        The folder with the folders of the classes.
    """
    root = folder / f"{count} photos of {classes} classes"
    missing = [number for number in range(count) if not _path(root, number, classes).exists()]
    for name in {_path(root, number, classes).parent for number in missing}:
        name.mkdir(parents=True, exist_ok=True)
    missing.sort(key=lambda number: (photo_size(number), number))  # a texture is drawn once in a process
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        for _ in pool.map(partial(_write, root, classes), missing, chunksize=32):
            pass
    return root


def photo_size(number: int) -> tuple[int, int]:
    """Return width and height of a photo."""
    return _LARGE if number % _EACH == _EACH - 1 else SIZES[number % len(SIZES)]


def _path(root: Path, number: int, classes: int) -> Path:
    return root / f"{number % classes:04}" / f"{number:07}.jpg"


def _write(root: Path, classes: int, number: int) -> None:
    generator = np.random.default_rng(number)
    width, height = photo_size(number)
    image = Image.fromarray(_texture(width, height, int(generator.integers(_VARIANTS))))
    image = image.transpose(Image.Transpose(int(generator.integers(2))))  # mirrored or upside down
    draw = ImageDraw.Draw(image)
    for shape in islice(cycle((draw.ellipse, draw.rectangle)), _SHAPES):
        x, y = generator.integers(width), generator.integers(height)
        radius = int(generator.integers(8, min(width, height) // 4))
        color = tuple(generator.integers(0, 256, 3).tolist())
        shape((int(x) - radius, int(y) - radius, int(x) + radius, int(y) + radius), fill=color)
    image.save(_path(root, number, classes), "JPEG", quality=_QUALITY)


_drawn: dict[tuple[int, int, int], NDArray[np.uint8]] = {}


def _texture(width: int, height: int, variant: int) -> NDArray[np.uint8]:
    """Return noise whose amplitude falls as 1/f, as that of photos does, with correlated channels."""
    key = width, height, variant % 2 if (width, height) == _LARGE else variant
    if key not in _drawn:
        if len(_drawn) > _VARIANTS:
            _drawn.clear()
        base, *others = _noise(*key)
        channels = [base, 0.9 * base + 0.3 * others[0], 0.8 * base + 0.4 * others[1]]
        _drawn[key] = (128 + _CONTRAST * np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)
    return _drawn[key]


def _noise(width: int, height: int, variant: int) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng([width, height, variant])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    for _ in range(3):
        phases = generator.standard_normal((2, *frequency.shape))
        noise = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency, s=(height, width))
        yield noise / noise.std()
