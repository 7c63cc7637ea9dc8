"""Image files with changed bytes."""

import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from mutation import mutate
from PIL import Image
from samples import encode, fitted, random_pixels

from ptqflow.fetch.decoding import UnreadableImageError, decode_image

pytestmark = pytest.mark.faults

FORMATS = [
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "JPEG2000",
    "DDS",
    "EPS",
]


def test_mutated_images(
    random_: random.Random, record_property: Callable[[str, object], None], capfd: pytest.CaptureFixture[str]
) -> None:
    kind = random_.choice(FORMATS)
    mode = random_.choice(["RGB", "L"]) if kind not in ("DDS", "SGI") else "RGB"
    image = Image.fromarray(random_pixels(24, 24, 3, seed=random_.randrange(1000))).convert(mode)
    options = {"compression": random_.choice(["raw", "tiff_lzw", "tiff_deflate", "packbits"])} if kind == "TIFF" else {}
    data = mutate(encode(image, kind, **options), random_)
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
