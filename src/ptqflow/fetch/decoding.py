"""Image files of any mode and size as arrays of one size and order of channels."""

import ctypes
import io
import math
from collections.abc import Iterator
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from ptqflow.core.normalization import Color
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.heic import SUFFIXES as HEIC_SUFFIXES
from ptqflow.fetch.heic import is_heic, open_heic, stated_sizes
from ptqflow.fetch.resizing import Box, resize_image, resized_size

_STRIP = 1_000_000  # pixels
_SPARE: float = 2  # times the pixels on each side that are needed, below which no JPEG is decoded
_MOST_PIXELS = 178_956_970  # of `Image.open`, beyond which it refuses an image
_MOST_RESIZED = 1 << 26
"""Pixels that an image may have between resizing and cropping: a thin one would otherwise fill the memory."""
_UNTURNED, _FLIPPED_X, _FLIPPED_Y = (1, 2, 3, 4), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF orientations: rows stay rows; what was the last column, or row, of the file is the first of the image."""
_MAX_SAMPLE_VALUE = 281  # tag of TIFF
_MEASUREMENTS = ("FITS", "MCIDAS")  # formats whose integers are physical values
_UNUSED = 16
"""More than 8 bits are refused where no value is above this part of the range: it would look black."""


class UnreadableImageError(Exception):
    """The bytes are not an image that Pillow reads completely, or its values have no known scale."""


class MissingDecoderError(UnreadableImageError):
    """The image may be whole: the optional package that decodes it is not installed."""


@dataclass(frozen=True)
class _Levels:
    """The values of a grey image that are black and white."""

    black: int
    white: int


def decode_image(data: bytes, how: Preprocessing, max_megapixels: int | None = None) -> NDArray[np.uint8]:
    """Decode an image of any format that Pillow reads, or HEIC, to uint8 of shape (height, width, channels).

    EXIF rotation is applied, transparency is composited on white for grey, RGB and BGR, and kept for RGBA, in which
    other images are opaque. More than 8 bits are scaled to 8 by the maximum that the format states. Then the image is
    resized and cropped as its preprocessing says.

    Raises:
        UnreadableImageError: not an image, truncated, of more pixels than `max_megapixels` or Pillow's limit of 179
            million, PostScript, which is a program, of floats or of integers whose maximum the format does not state,
            of more than 8 bits and almost all of its range unused, or so thin that resized it would have more
            than 67 million pixels.
        MissingDecoderError: HEIC, and pillow-heif is not installed.
    """
    try:
        with _open(data) as image:
            _require_decodable(image, data, max_megapixels)
            return _fit(image, how)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:  # its message is the address of the bytes in memory
        raise UnreadableImageError("Pillow does not know its format") from None
    except Exception as error:  # Pillow has about 40 plugins, which raise anything on damaged files
        raise UnreadableImageError(str(error) or type(error).__name__) from None


def _open(data: bytes) -> Image.Image:
    if not is_heic(data):
        return Image.open(io.BytesIO(data))
    try:
        return open_heic(data)
    except ModuleNotFoundError:
        raise MissingDecoderError(
            "HEIC needs pillow-heif, which is not installed: `pip install 'ptqflow[heif]'`"
        ) from None


def image_suffixes() -> frozenset[str]:
    """Return how names of image files end, in lower case."""
    Image.init()
    return frozenset({*Image.registered_extensions(), *HEIC_SUFFIXES})


def _require_decodable(image: Image.Image, data: bytes, max_megapixels: int | None) -> None:
    """Refuse by its header what would take too much memory, and what Pillow would have Ghostscript run."""
    if isinstance(image, TiffImageFile):
        _silence_libtiff()
    if image.format == "EPS":
        raise UnreadableImageError("PostScript is a program, which is not run; save it in another format")
    sizes = [image.size, *(stated_sizes(data) if image.format in ("AVIF", "HEIF") else [])]
    width, height = max(sizes, key=math.prod)
    if max_megapixels is not None and width * height > max_megapixels * 1_000_000:
        raise UnreadableImageError(
            f"{width} x {height} pixels, and data.max_megapixels={max_megapixels} allows fewer; raise it"
        )
    if width * height > _MOST_PIXELS:
        raise UnreadableImageError(f"{width} x {height} pixels, and {_MOST_PIXELS:,} are the most that are decoded")


@cache
def _silence_libtiff() -> None:
    """Have libtiff print nothing: Pillow raises what is wrong with a file, and libtiff says it on stderr besides."""
    bundled = sorted(Path(PIL.__file__).parents[1].glob("pillow.libs/libtiff*"))
    library = str(bundled[0]) if bundled else find_library("tiff")
    with suppress(OSError, AttributeError):
        tiff = ctypes.CDLL(library)
        tiff.TIFFSetErrorHandler(None)
        tiff.TIFFSetWarningHandler(None)


def fit_image(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """Apply EXIF rotation, convert, resize and crop to uint8 (height, width, channels).

    Of a JPEG that was opened and not decoded yet, this is what `decode_image` returns for its file, and the image stays
    unchanged; one that was decoded is resized from all its pixels, which differs by little where the preprocessing
    allows `decode_image` to read a JPEG at a part of its size: see docs/scale.md.

    Raises:
        UnreadableImageError: as `decode_image`, of its values.
        OSError: the file of the image is truncated.
    """
    if _is_unread_jpeg(image) and image.fp:
        image.fp.seek(0)
        with Image.open(io.BytesIO(image.fp.read())) as own:
            return _fit(own, how)
    return _fit(image, how)


def _fit(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    levels = _find_levels(image)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turned = orientation not in _UNTURNED
    _require_bounded(image.size if turned else image.size[::-1], how)
    beyond = _choose_scale(image, how.resized[::-1] if turned else how.resized) if how.may_scale_jpeg else (0, 0)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode != how.mode or (how.mode != "RGBA" and image.has_transparency_data):
        image = _convert_in_strips(image, levels, how.mode)
    if (image.height, image.width) != how.size or not how.keeps_its_size:
        image = resize_image(image, how, _frame(image, beyond, orientation))
    return _in_order(np.asarray(image).reshape(*how.size, how.channels), how)


def fit_arrays(images: NDArray[Any], how: Preprocessing) -> NDArray[np.uint8]:
    """Convert and resize uint8 images of shape (N, H, W) or (N, H, W, 1, 3 or 4) to (N, height, width, channels).

    Their channels are in the order of Pillow's modes: grey, RGB or RGBA.
    """
    if images.shape[1:] == (*how.size, how.channels) and how.keeps_its_size:
        return _in_order(images.astype(np.uint8, copy=False), how)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]  # Pillow has no such axis
    return np.stack([fit_image(Image.fromarray(image), how) for image in images])


def _in_order(pixels: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[..., ::-1]) if how.color == "BGR" else pixels


def _require_bounded(size: tuple[int, int], how: Preprocessing) -> None:
    height, width = resized_size(size, how)
    if height * width > _MOST_RESIZED:
        raise UnreadableImageError(
            f"{size[1]} x {size[0]} pixels, which data.resize={how.resize} enlarges to {width} x {height} before the "
            "crop; crop it, or set data.resize to fit or letterbox"
        )


def _is_unread_jpeg(image: Image.Image) -> TypeGuard[JpegImageFile]:
    return isinstance(image, JpegImageFile) and image.format == "JPEG" and bool(image.tile)


def _choose_scale(image: Image.Image, size: tuple[int, int]) -> tuple[float, float]:
    """Have an unread JPEG decoded at the smallest scale at which both of its sides are at least twice those of `size`.

    Nearer to `size`, the decoder's own averaging shows: docs/scale.md compares both with decoding at full size.

    Args:
        image: not turned by EXIF yet.
        size: height and width to which it is resized, of the image before it is turned.

    Returns:
        Width and height of what the last column and row hold beyond the image, in their pixels: it may end in one.
    """
    width, height = image.size
    ratio = min(height / size[0], width / size[1])
    scale = next((scale for scale in (8, 4, 2) if ratio >= _SPARE * scale), 1)
    if scale == 1 or not _is_unread_jpeg(image):
        return 0, 0
    image.draft(None, (width // scale, height // scale))
    return image.width - width / scale, image.height - height / scale


def _frame(image: Image.Image, beyond: tuple[float, float], orientation: int) -> Box:
    """Return the part of an upright image that its last column and row do not go beyond.

    Args:
        image: upright.
        beyond: as `_choose_scale` returns it.
        orientation: of EXIF, that it had.
    """
    right, bottom = beyond if orientation in _UNTURNED else beyond[::-1]
    left, top = (right if orientation in _FLIPPED_X else 0), (bottom if orientation in _FLIPPED_Y else 0)
    return left, top, left + image.width - right, top + image.height - bottom


def _find_levels(image: Image.Image) -> _Levels | None:
    """Return what is black and white in a grey image of more than 8 bits; None for one that Pillow reads as 8 bits.

    Raises:
        UnreadableImageError: the format does not say it, or the values are not what it says.
    """
    is_deep = _has_deep_channels(image)  # of the header, which Pillow drops when it loads the image
    if not image.mode.startswith(("I", "F")):
        if is_deep:
            _require_light_channels(image)
        return None
    low, high = _range(image)
    found = f"mode {image.mode}, values {low:g} to {high:g}"
    white = _stated_white(image, high)
    if white is None or low < 0:
        raise UnreadableImageError(
            f"{found}: its format does not say which value is white; scale them to 0..255 and save it with 8 bits"
        )
    if high * _UNUSED <= white:
        raise UnreadableImageError(
            f"{found} of {white}: as if fewer bits had been stored without scaling; scale them to 0..{white}, or save "
            "it with 8 bits"
        )
    is_inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    return _Levels(white, 0) if is_inverted else _Levels(0, white)


def _stated_white(image: Image.Image, high: float) -> int | None:
    """Return the value that the format of a grey image states to be its maximum; `high` is the largest one in it."""
    if image.mode == "F" or image.format in _MEASUREMENTS:
        return None
    if isinstance(image, TiffImageFile):
        # The specification calls this tag the statistic of an image; all bits set, it is the range of a camera.
        maximum = max(image.tag_v2.get(_MAX_SAMPLE_VALUE, (0,)))
        if 0 < high <= maximum and maximum & (maximum + 1) == 0:
            return int(maximum)
        return 2 ** max(image.tag_v2.get(BITSPERSAMPLE, (16,))) - 1 if image.mode != "I" else None
    # Pillow scales a PGM. The sBIT of a PNG is of the source: its values are scaled to 16 bits.
    return 65535 if image.mode != "I" or image.format == "PPM" else None


def _has_deep_channels(image: Image.Image) -> bool:
    """Return whether the file has more than 8 bits per channel, of which Pillow keeps the higher 8 if it has colors."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(BITSPERSAMPLE, (1,)))) > 8
    for tile in image.tile if isinstance(image, ImageFile.ImageFile) else []:
        match tile:
            case ("SGI16", *_):
                return True
            case ("zip", _, _, str(raw_mode)):
                return raw_mode.endswith(";16B")
            case ("ppm" | "ppm_plain", _, _, (_, int(maximum))):
                return maximum > 255
    return False


def _require_light_channels(image: Image.Image) -> None:
    ranges = np.reshape(image.getextrema(), (-1, 2))
    highest = max(high for band, (_, high) in zip(image.getbands(), ranges, strict=True) if band != "A")
    if highest <= _UNUSED:
        raise UnreadableImageError(
            f"mode {image.mode} of more than 8 bits per channel, values to {highest} of 255 when reduced to 8 bits: as "
            "if fewer bits had been stored without scaling; scale them, or save it with 8 bits"
        )


def _range(image: Image.Image) -> tuple[float, float]:
    # Not getextrema, which does not know I;16B.
    ranges = [
        (float(values.min()), float(values.max())) for values in (np.asarray(strip) for _, strip in _strips(image))
    ]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row of some rows at a time, and these rows."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert_in_strips(image: Image.Image, levels: _Levels | None, color: Color) -> Image.Image:
    """Convert some rows at a time: at once, the intermediate images would take four times the memory of the image."""
    converted = Image.new(color, image.size)
    for top, strip in _strips(image):
        converted.paste(_convert(strip if levels is None else _to_8_bits(strip, levels), color), (0, top))
    return converted


def _convert(image: Image.Image, color: Color) -> Image.Image:
    if color == "RGBA":
        return image.convert("RGBA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB").convert(color)  # from RGB, since Pillow converts not every mode to grey


def _to_8_bits(image: Image.Image, levels: _Levels) -> Image.Image:
    values = np.asarray(image)
    grey = np.rint((values - float(levels.black)) * (255 / (levels.white - levels.black))).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is None:
        return Image.fromarray(grey)
    opacity = np.where(values == transparent, np.uint8(0), np.uint8(255))
    return Image.fromarray(np.stack([grey, opacity], axis=-1))
