"""Image files with changed bytes."""

import random
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from mutation import mutate
from PIL import Image
from samples import encode, fitted, random_pixels

from ptqflow.fetch.decoding import UnreadableImageError, decode_image

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

FORMATS = [
    "AVIF",
    "BLP",
    "BMP",
    "DDS",
    "DIB",
    "EPS",
    "GIF",
    "HEIC",
    "ICNS",
    "ICO",
    "IM",
    "JPEG",
    "JPEG2000",
    "MSP",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "SPIDER",
    "TGA",
    "TIFF",
    "WEBP",
    "XBM",
]
"""All that Pillow reads and writes, and HEIC."""
MODES = ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"]


def encoded(random_: random.Random) -> bytes:
    """Return an image file of any format, in a mode that it knows."""
    kind = random_.choice(FORMATS)
    compression = ["raw", "tiff_lzw", "tiff_deflate", "packbits"]
    options = {"compression": random_.choice(compression)} if kind == "TIFF" else {}
    pixels = Image.fromarray(random_pixels(24, 24, 3, seed=random_.randrange(1000)))
    for mode in random_.sample(MODES, len(MODES)):
        image = pixels.convert("L" if mode in ("1", "LA", "I;16", "F") else mode).convert(mode)
        with suppress(OSError, ValueError, KeyError):  # the format has no such mode
            return encode(image, kind, **options)
    raise AssertionError(f"{kind} has none of these modes")


def test_mutated_images(
    random_: random.Random, record_property: Callable[[str, object], None], capfd: pytest.CaptureFixture[str]
) -> None:
    data = mutate(encoded(random_), random_)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = decode_image(data, fitted(16), 1)
    except UnreadableImageError:
        record_property("outcome", "refused")
    else:
        assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
        record_property("outcome", "read")
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
