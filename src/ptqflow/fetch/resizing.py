"""Resize and crop an image as its preprocessing says: what torchvision's and timm's transforms do, pixel for pixel."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.preprocessing import Interpolation, Preprocessing

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
_FILTERS: Mapping[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_BLOCK = 1 << 18  # pixels that are interpolated at a time: NumPy takes 60 bytes or more for each
_SHARPNESS = -0.75  # of the cubic kernel without antialiasing, in torch and OpenCV; with it, Pillow has -0.5


def resize_image(image: Image.Image, how: Preprocessing, frame: Box) -> Image.Image:
    """Return an image of the height and width of its preprocessing.

    Args:
        image: upright, of the preprocessing's mode.
        how: it is resized.
        frame: the part of it that is the image, whose last pixels may be there in part; only `fit` may have a smaller
            one.
    """
    if how.resize == "fit":
        return _resample(image, how.size, _center_of(frame, how), how)
    resized = _resample(image, resized_size((image.height, image.width), how), (0, 0, *image.size), how)
    return _crop_or_pad(resized, how)


def resized_size(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """Return height and width to which an image is resized before it is cropped.

    Args:
        size: height and width of the upright image.
        how: it is resized.
    """
    height, width = how.resized
    match how.resize:
        case "fit":
            return how.size
        case "squash":
            return how.resized
        case "short_side" if height == width:  # as torchvision, which rounds the long side down
            short, long = min(size), int(height * max(size) / min(size))
            return (height, long) if size[0] == short else (long, height)
    # As timm, which rounds to the nearest number and has this order of operations.
    ratios = size[0] / height, size[1] / width
    ratio = max(ratios) if how.resize == "letterbox" else min(ratios)
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _center_of(frame: Box, how: Preprocessing) -> Box:
    """Return the part at the center that becomes the input, of its proportions."""
    left, top, right, bottom = frame
    width, height = right - left, bottom - top
    inner_width = min(width, height * how.resized[1] / how.resized[0]) * how.width / how.resized[1]
    inner_height = min(height, width * how.resized[0] / how.resized[1]) * how.height / how.resized[0]
    left, top = left + (width - inner_width) / 2, top + (height - inner_height) / 2
    return left, top, left + inner_width, top + inner_height


def _crop_or_pad(image: Image.Image, how: Preprocessing) -> Image.Image:
    if (image.height, image.width) == how.size:
        return image
    fill = how.fill[0] if how.mode == "L" else how.fill
    cropped = Image.new(how.mode, (how.width, how.height), fill)
    cropped.paste(image, (-_start(image.width, how.width), -_start(image.height, how.height)))
    return cropped


def _start(length: int, kept: int) -> int:
    """Return the first pixel that is kept; it is negative where there are fewer than are kept."""
    return round((length - kept) / 2) if length > kept else -((kept - length) // 2)


def _resample(image: Image.Image, size: tuple[int, int], box: Box, how: Preprocessing) -> Image.Image:
    height, width = size
    if how.antialias:
        return image.resize((width, height), _FILTERS[how.interpolation], box)
    if image.mode == "RGBA":  # as Pillow does: a color counts by its opacity
        return _interpolate(image.convert("RGBa"), size, box, how.interpolation).convert("RGBA")
    return _interpolate(image, size, box, how.interpolation)


def _interpolate(image: Image.Image, size: tuple[int, int], box: Box, interpolation: Interpolation) -> Image.Image:
    """Resize without antialiasing, as `torch.nn.functional.interpolate` does, rounded to the nearest."""
    (height, width), (left, top, right, bottom) = size, box
    values, rows = np.asarray(image), _places(height, top, bottom, interpolation)
    columns = _places(width, left, right, interpolation)
    resized = Image.new(image.mode, (width, height))
    step = max(1, _BLOCK // max(width, image.width))
    for first in range(0, height, step):
        block = _along(_along(values, 0, rows[first : first + step], interpolation), 1, columns, interpolation)
        rounded = np.rint(block).clip(0, 255).astype(np.uint8)
        resized.paste(Image.frombytes(image.mode, (width, len(block)), rounded.tobytes()), (0, first))
    return resized


def _places(length: int, first: float, last: float, interpolation: Interpolation) -> NDArray[np.float64]:
    """Return the centers of equally large parts of an interval, in pixels from the center of the first pixel."""
    parts = np.arange(length, dtype=np.float64)
    places: NDArray[np.float64] = first + (parts + 0.5) * ((last - first) / length) - 0.5
    # torch lets only a cubic kernel reach beyond the first pixel.
    return np.maximum(places, 0) if interpolation == "bilinear" else places


def _along(
    values: NDArray[Any], axis: int, places: NDArray[np.float64], interpolation: Interpolation
) -> NDArray[np.float64]:
    """Interpolate at places along an axis; beyond the edges are the values there."""
    base = np.floor(places)
    shape = [1] * values.ndim
    shape[axis] = len(places)
    taps = (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)
    terms = (
        np.take(values, (base + tap).clip(0, values.shape[axis] - 1).astype(np.int64), axis).astype(np.float64)
        * _kernel(np.abs(places - base - tap), interpolation).reshape(shape)
        for tap in taps
    )
    total: NDArray[np.float64] = reduce(np.add, terms)
    return total


def _kernel(distance: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    """Return the weights of pixels at these distances (R. Keys, 1981, for bicubic)."""
    if interpolation == "bilinear":
        return 1 - distance
    a, d = _SHARPNESS, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, far)
