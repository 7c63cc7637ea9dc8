"""HEIC and AVIF are images like others: upright, bounded, and one line where they cannot be read."""

import io
import struct
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps
from samples import data_params, encode, fitted, png, read_pool, write_folder

from ptqflow.core.errors import DataError
from ptqflow.fetch.decoding import UnreadableImageError, decode_image, image_suffixes
from ptqflow.fetch.photos import load_photos

RAMP = np.add.outer(np.arange(64) * 2, np.arange(64)).astype(np.uint8)
IMAGE = Image.fromarray(np.stack([RAMP, RAMP // 2, 255 - RAMP], -1))


def heic(image: Image.Image, **options: object) -> bytes:
    """Return an HEIC file without loss, by the encoder of libheif."""
    return encode(image, "HEIC", **({"quality": -1, "chroma": 444} | options))


def avif(image: Image.Image, **options: object) -> bytes:
    return encode(image, "AVIF", **({"quality": 100, "subsampling": "4:4:4", "speed": 10} | options))


WRITERS = {"HEIC": heic, "AVIF": avif}
Write = Callable[..., bytes]
formats = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@formats
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_those_of_a_png_of_the_image(write: Write, mode: str, channels: int) -> None:
    image = IMAGE.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.repeat(RAMP[:1] * 3 + 66, 64, 0)))
    found, expected = (decode_image(data, fitted(16, channels)) for data in (write(image), encode(image)))
    assert np.abs(found.astype(int) - expected).max() <= 6


@formats
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(write: Write, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = IMAGE.crop((0, 0, 64, 48))
    upright = image.copy()
    upright.getexif()[0x0112] = orientation
    found = decode_image(write(image, exif=exif.tobytes()), fitted((12, 16)))
    expected = decode_image(encode(ImageOps.exif_transpose(upright)), fitted((12, 16)))
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_more_than_8_bits_are_scaled_to_8() -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    found = decode_image(heic(deep), fitted(64))
    assert np.abs(found[..., 0].astype(int) - RAMP).max() <= 1


@formats
@pytest.mark.parametrize("kept", [40, 200, -40])
def test_a_truncated_file_is_unreadable(write: Write, kept: int) -> None:
    with pytest.raises(UnreadableImageError) as error:
        decode_image(write(IMAGE)[:kept], fitted(16))
    assert str(error.value)


def restated(data: bytes, box: bytes, content: bytes) -> bytes:
    """Return a file whose first box of a type says something else."""
    start = data.index(box) + len(box)
    return data[:start] + content + data[start + len(content) :]


@cache
def large(write: Write) -> bytes:
    return write(Image.new("RGB", (1281, 1023)), quality=10)


@formats
def test_an_image_of_more_pixels_than_allowed_is_refused_by_its_header(write: Write) -> None:
    assert decode_image(large(write), fitted(8), 2).shape == (8, 8, 3)
    with pytest.raises(UnreadableImageError, match=r"^128\d x 102\d pixels, and data\.max_megapixels=1 allows fewer; "):
        decode_image(large(write), fitted(8), 1)
    huge = restated(write(IMAGE), b"ispe", struct.pack(">III", 0, 15_000, 15_000))
    with pytest.raises(UnreadableImageError, match=r"^15000 x 15000 pixels, and 178,956,970 are|limit of 178956970 pi"):
        decode_image(huge, fitted(8))


def test_an_image_of_which_a_small_part_is_shown_counts_as_a_whole() -> None:
    data = restated(large(heic), b"clap", struct.pack(">IIII", 8, 1, 8, 1))
    assert pillow_heif.open_heif(io.BytesIO(data)).size == (8, 8)
    with pytest.raises(UnreadableImageError, match=r"^128\d x 102\d pixels, and data\.max_megapixels=1 allows"):
        decode_image(data, fitted(8), 1)


def test_an_image_larger_than_it_states_is_not_decoded() -> None:
    data = restated(large(heic), b"ispe", struct.pack(">III", 0, 64, 64))
    with pytest.raises(UnreadableImageError, match=r"Image size 128\dx102\d exceeds the maximum image size"):
        decode_image(data, fitted(8))


PHOTOS = {"a.heic": heic(IMAGE), "b.HIF": heic(IMAGE), "c.avif": avif(IMAGE), "d.jpg": heic(IMAGE), "e.png": png(0)}


def test_files_are_known_by_their_suffixes_and_those_of_phones_in_disguise_by_their_content(tmp_path: Path) -> None:
    assert {".heic", ".heif", ".hif", ".avif"} <= image_suffixes()
    source = load_photos(write_folder(tmp_path, PHOTOS), data_params(name="photos"), fitted(16))
    assert source.ignored == 0
    assert read_pool(source, source.train).shape == (5, 16, 16, 3)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("name", ["a.heic", "d.jpg"])
def test_without_pillow_heif_the_file_and_the_extra_are_named(
    name: str, on_bad_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # what the import of a package that is missing does
    root = write_folder(tmp_path, {key: data for key, data in PHOTOS.items() if key in (name, "c.avif", "e.png")})
    write_folder(root, {"f.png": png(1)})
    source = load_photos(root, data_params(name="photos", on_bad_image=on_bad_image), fitted(16))
    with pytest.raises(DataError) as error:
        read_pool(source, source.train)
    assert str(error.value) == (
        f"{root.resolve()}: {name}: HEIC needs pillow-heif, which is not installed: `pip install 'ptqflow[heif]'`"
    )
