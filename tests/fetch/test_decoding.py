"""Any mode and size becomes RGB of one size."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import bomb, encode, png, random_pixels

import ptqflow
from ptqflow.fetch.decoding import UnreadableImageError, decode_image, fit_arrays, fit_image

WHITE, GREY, RED, PINK = (255, 255, 255), (77, 77, 77), (255, 0, 0), (255, 127, 127)


def plain(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (8, 8), colour)  # type: ignore[arg-type]


def palette(mode: str = "P") -> Image.Image:
    image = plain("P", 1)
    image.putpalette([0, 255, 0, *RED])
    return image.convert(mode)


def profile_free_jpeg(mode: str) -> bytes:
    return encode(Image.new("RGB", (8, 8), RED).convert(mode), "JPEG", quality=100, subsampling=0)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encode(plain("1", 1)), WHITE, id="1"),
        pytest.param(encode(plain("L", 77)), GREY, id="L"),
        pytest.param(encode(plain("L", 77), transparency=77), WHITE, id="L with a transparent grey"),
        pytest.param(encode(plain("LA", (77, 255))), GREY, id="LA"),
        pytest.param(encode(plain("LA", (77, 0))), WHITE, id="LA, transparent"),
        pytest.param(encode(palette()), RED, id="P"),
        pytest.param(encode(palette(), transparency=1), WHITE, id="P with a transparent colour"),
        pytest.param(encode(palette(), transparency=b"\xff\x80"), PINK, id="P with an alpha per colour"),
        pytest.param(encode(plain("RGB", RED)), RED, id="RGB"),
        pytest.param(encode(plain("RGB", RED), transparency=RED), WHITE, id="RGB with a transparent colour"),
        pytest.param(encode(plain("RGBA", (*RED, 255))), RED, id="RGBA"),
        pytest.param(encode(plain("RGBA", (*RED, 128))), PINK, id="RGBA, half transparent"),
        pytest.param(encode(plain("RGBA", (*RED, 0))), WHITE, id="RGBA, transparent"),
        pytest.param(encode(plain("I;16", 256 * 77 + 200)), GREY, id="I;16"),
        pytest.param(b"P5 8 8 65535\n" + struct.pack(">H", 256 * 77) * 64, GREY, id="I;16 of a PGM"),
        pytest.param(encode(plain("I", 256 * 77), "TIFF"), GREY, id="I"),
        pytest.param(encode(plain("I", 10**6), "TIFF"), WHITE, id="I, more than 16 bits"),
        pytest.param(encode(plain("I", -1), "TIFF"), (0, 0, 0), id="I, negative"),
        pytest.param(encode(plain("CMYK", (0, 255, 255, 0)), "TIFF"), RED, id="CMYK"),
        pytest.param(profile_free_jpeg("CMYK"), RED, id="CMYK of a JPEG"),
        pytest.param(profile_free_jpeg("RGB"), RED, id="YCbCr of a JPEG"),
        pytest.param(encode(plain("RGB", RED).convert("YCbCr"), "TIFF"), RED, id="YCbCr"),
        pytest.param(encode(plain("RGB", RED), "GIF"), RED, id="GIF"),
        pytest.param(encode(plain("RGB", RED), "WEBP", lossless=True), RED, id="WebP"),
        pytest.param(encode(plain("RGB", RED), "BMP"), RED, id="BMP"),
    ],
)
def test_every_mode_becomes_the_rgb_that_a_person_sees(data: bytes, colour: tuple[int, int, int]) -> None:
    image = decode_image(data, 8)
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    assert np.abs(image.astype(int) - colour).max() <= 1


def test_a_palette_with_alpha_is_laid_on_white() -> None:
    image = palette("PA")
    image.putalpha(128)
    assert image.mode == "PA"
    assert (fit_image(image, 8) == PINK).all()


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    assert (decode_image(png(0), 16) == random_pixels(16, 16, 3)).all()


@pytest.mark.parametrize(
    ("orientation", "back"),
    [
        (1, lambda p: p),
        (2, np.fliplr),
        (3, lambda p: np.rot90(p, 2)),
        (4, np.flipud),
        (5, lambda p: p.swapaxes(0, 1)),
        (6, lambda p: np.rot90(p, 1)),
        (7, lambda p: np.rot90(p, 2).swapaxes(0, 1)),
        (8, lambda p: np.rot90(p, -1)),
    ],
)
def test_exif_orientation_is_undone(orientation: int, back) -> None:  # type: ignore[no-untyped-def]
    upright = random_pixels(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(back(upright)))
    assert (decode_image(encode(stored, exif=exif), 8) == upright).all()


@pytest.mark.parametrize("upright", [False, True])
def test_an_image_is_cropped_in_the_middle_to_a_square(upright: bool) -> None:
    middle = random_pixels(8, 8, 3)
    image = np.pad(middle, ((0, 0), (5, 5), (0, 0)))
    expected = middle.swapaxes(0, 1) if upright else middle
    assert (decode_image(encode(Image.fromarray(image.swapaxes(0, 1) if upright else image)), 8) == expected).all()


def test_a_large_image_is_averaged_not_sampled() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    inner = decode_image(encode(Image.fromarray(stripes)), 8)[:, 1:-1].astype(int)
    assert np.abs(inner - 100).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_the_smallest_and_the_longest_images_are_images(size: tuple[int, int]) -> None:
    assert (decode_image(encode(Image.new("RGB", size, RED)), 8) == RED).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel reports the peak in /proc")
def test_transparency_takes_the_memory_of_one_more_image() -> None:
    program = """
import re
from pathlib import Path
from PIL import Image
from ptqflow.fetch.decoding import fit_image

def most() -> int:
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

start = most()
image = Image.new("LA", (4000, 6000), (77, 128))
loaded = most()
fit_image(image, 8)
print((most() - loaded) / (loaded - start))
"""
    source = str(Path(ptqflow.__file__).parents[1])
    output = subprocess.check_output([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": source})
    assert float(output) < 1.5


@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_an_image_that_is_converted_in_strips_has_the_pixels_of_each(mode: str) -> None:
    pixels = random_pixels(1200, 1000, 4)
    image = Image.fromarray(pixels.view(np.uint16)[..., 0]) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    rows = [np.stack([fit_image(image.crop((i, i, i + 1, i + 1)), 1)[0, 0]]) for i in range(1000)]
    square = fit_image(image.crop((0, 0, 1000, 1000)), 1000)
    assert (square[range(1000), range(1000)] == np.concatenate(rows)).all()


def unknown_dds() -> bytes:
    data = bytearray(encode(plain("RGB", RED), "DDS"))
    data[80:84] = bytes(4)  # the flags of the pixel format
    return bytes(data)


def damaged_spider() -> bytes:
    data = bytearray(encode(plain("F", 77), "SPIDER"))
    data[26 * 4 : 27 * 4] = struct.pack("=f", 1)  # an image of a stack that there is not
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "pillow does not know its format", id="empty"),
        pytest.param(b"no image", "pillow does not know its format", id="text"),
        pytest.param(png(0)[:100], "truncated", id="PNG, truncated"),
        pytest.param(encode(Image.new("RGB", (64, 64)), "JPEG")[:-200], "truncated", id="JPEG, truncated"),
        pytest.param(encode(plain("RGB", RED), "BMP")[:-50], "truncated", id="BMP, truncated"),
        pytest.param(png(0)[:60] + b"damage" + png(0)[66:], "", id="PNG, damaged"),
        pytest.param(unknown_dds(), "pixel format", id="DDS, unknown format"),
        pytest.param(damaged_spider(), "stkoffset", id="SPIDER, an error of the plugin itself"),
        pytest.param(bomb(), "exceeds limit", id="decompression bomb"),
        pytest.param(encode(plain("F", 0.5), "TIFF"), "values are floats of unknown range", id="F, 0 to 1"),
        pytest.param(encode(plain("F", 77), "TIFF"), "save it with 8 or 16 bits", id="F, 0 to 255"),
    ],
)
def test_what_cannot_be_read_completely_is_an_error_that_says_why(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, 8)
    assert words in str(caught.value).lower()
    assert "0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of oddities
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "AVIF"])
def test_damage_anywhere_leads_to_an_image_or_an_error_of_one_kind(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    whole = encode(Image.fromarray(random_pixels(16, 16, 3)), kind)
    draw = np.random.default_rng(0)
    errors = 0
    for _ in range(200):
        data = np.frombuffer(whole, np.uint8).copy()
        data[draw.integers(0, min(len(data), 400), 4)] = draw.integers(0, 256, 4)
        try:
            assert decode_image(data.tobytes(), 8).shape == (8, 8, 3)
        except UnreadableImageError:
            errors += 1
    assert errors > 0


def test_arrays_of_the_right_size_are_kept_and_grey_ones_become_rgb() -> None:
    colours = random_pixels(2, 8, 8, 3)
    assert (fit_arrays(colours, 8) == colours).all()
    grey = colours[..., 0]
    assert (fit_arrays(grey, 8) == grey[..., None]).all()


def test_arrays_are_scaled_as_image_files_are() -> None:
    colours = random_pixels(2, 20, 20, 3)
    expected = [decode_image(encode(Image.fromarray(image)), 8) for image in colours]
    assert (fit_arrays(colours, 8) == np.stack(expected)).all()
