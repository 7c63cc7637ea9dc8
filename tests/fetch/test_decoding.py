"""Any mode and size becomes grey, RGB or RGBA of one size."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image, ImageOps
from samples import bomb, chunk, encode, fitted, png, random_pixels

import ptqflow
from ptqflow.fetch.decoding import UnreadableImageError, decode_image, fit_arrays, fit_image

WHITE, GREY, RED, PINK = (255, 255, 255), (77, 77, 77), (255, 0, 0), (255, 127, 127)
RED_AS_GREY, PINK_AS_GREY = 76, 165
"""0.299 R + 0.587 G + 0.114 B, of ITU-R 601."""


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
    image = decode_image(data, fitted(8))
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    assert np.abs(image.astype(int) - colour).max() <= 1


@pytest.mark.parametrize(
    ("data", "grey", "rgba"),
    [
        pytest.param(encode(plain("1", 1)), 255, (*WHITE, 255), id="1"),
        pytest.param(encode(plain("L", 77)), 77, (*GREY, 255), id="L"),
        pytest.param(encode(plain("L", 77), transparency=77), 255, (*GREY, 0), id="L with a transparent grey"),
        pytest.param(encode(plain("LA", (77, 255))), 77, (*GREY, 255), id="LA"),
        pytest.param(encode(plain("LA", (77, 128))), 166, (*GREY, 128), id="LA, half transparent"),
        pytest.param(encode(palette()), RED_AS_GREY, (*RED, 255), id="P"),
        pytest.param(encode(palette(), transparency=1), 255, (*RED, 0), id="P with a transparent colour"),
        pytest.param(
            encode(palette(), transparency=b"\xff\x80"), PINK_AS_GREY, (*RED, 128), id="P with an alpha per colour"
        ),
        pytest.param(encode(plain("RGB", RED)), RED_AS_GREY, (*RED, 255), id="RGB"),
        pytest.param(encode(plain("RGB", RED), transparency=RED), 255, (*RED, 0), id="RGB with a transparent colour"),
        pytest.param(encode(plain("RGBA", (*RED, 128))), PINK_AS_GREY, (*RED, 128), id="RGBA, half transparent"),
        pytest.param(encode(plain("I;16", 256 * 77 + 200)), 77, (*GREY, 255), id="I;16"),
        pytest.param(encode(plain("CMYK", (0, 255, 255, 0)), "TIFF"), RED_AS_GREY, (*RED, 255), id="CMYK"),
        pytest.param(encode(plain("RGB", RED), "GIF"), RED_AS_GREY, (*RED, 255), id="GIF"),
    ],
)
def test_every_mode_becomes_grey_on_white_and_rgba_with_its_alpha(
    data: bytes, grey: int, rgba: tuple[int, int, int, int]
) -> None:
    for channels, expected in ((1, (grey,)), (4, rgba)):
        image = decode_image(data, fitted(8, channels))
        assert (image.shape, image.dtype) == ((8, 8, channels), np.uint8)
        assert (image == expected).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_what_becomes_rgb_becomes_grey_and_rgba_too(mode: str) -> None:
    image = Image.new(mode, (8, 8))
    rgb = fit_image(image, fitted(8))
    assert (fit_image(image, fitted(8, 1))[..., 0] == np.asarray(Image.fromarray(rgb).convert("L"))).all()
    assert fit_image(image, fitted(8, 4)).shape == (8, 8, 4)


@pytest.mark.parametrize("size", [(8, 8), (21, 30)])
def test_a_grey_image_has_the_values_of_each_channel_of_its_rgb(size: tuple[int, int]) -> None:
    data = encode(Image.fromarray(random_pixels(*size)))
    grey, rgb, rgba = (decode_image(data, fitted(8, channels)) for channels in (1, 3, 4))
    assert (rgb == grey).all()
    assert (rgba[..., :3] == rgb).all()
    assert (rgba[..., 3] == 255).all()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_an_image_of_the_right_mode_and_size_keeps_its_pixels(mode: str, channels: int) -> None:
    image = Image.fromarray(random_pixels(8, 8, 4)).convert(mode)
    assert (decode_image(encode(image), fitted(8, channels)) == np.asarray(image).reshape(8, 8, channels)).all()


def test_what_is_transparent_does_not_bleed_into_its_neighbours_when_scaled() -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, 16:] = (*RED, 255)
    scaled = decode_image(encode(Image.fromarray(pixels)), fitted(9, 4))
    assert 0 < scaled[0, 4, 3] < 255
    assert np.abs(scaled[:, 4, :3].astype(int) - RED).max() <= 2


def test_a_palette_with_alpha_is_laid_on_white() -> None:
    image = palette("PA")
    image.putalpha(128)
    assert image.mode == "PA"
    assert (fit_image(image, fitted(8)) == PINK).all()
    assert (fit_image(image, fitted(8, 1)) == PINK_AS_GREY).all()
    assert (fit_image(image, fitted(8, 4)) == (*RED, 128)).all()


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
RAMP_8 = np.rint(RAMP * 255).astype(np.uint8)


def ramp(bits: int) -> np.ndarray:
    """Return uint16 (8, 8) from 0 to the largest value of so many bits."""
    return np.rint(RAMP * (2**bits - 1)).astype(np.uint16)


def colours(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1)


def deep_png(values: np.ndarray, *chunks: bytes) -> bytes:
    """Return a PNG of 16 bits of uint16 (8, 8) or (8, 8, channels)."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.size // 64]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0))
    data = [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, *data])


def deep_tiff(values: np.ndarray, **tags: int) -> bytes:
    ids = {"photometric": 262, "orientation": 274, "max_sample_value": 281, "sample_format": 339}
    return encode(Image.fromarray(values), "TIFF", tiffinfo={ids[name]: value for name, value in tags.items()})


def packed_tiff(values: np.ndarray) -> bytes:
    """Return a TIFF of 12 bits, two values in three bytes, which Pillow does not write."""
    high, low = (values.reshape(8, 4, 2)[..., i].astype(np.uint32) for i in (0, 1))
    packed = ((high << 12 | low) << 8).astype(">u4").view(np.uint8).reshape(8, 4, 4)[..., :3].reshape(8, 12)
    data = encode(Image.fromarray(packed), "TIFF")
    for tag, kind, stored, wanted in ((256, 4, 12, 8), (258, 3, 8, 12)):  # width and bits
        entry = struct.pack("<HHII", tag, kind, 1, stored)
        assert data.count(entry) == 1
        data = data.replace(entry, entry[:8] + struct.pack("<I", wanted))
    return data


def portable(values: np.ndarray, maximum: int) -> bytes:
    """Return a binary PGM or PPM."""
    return b"P%d 8 8 %d\n" % (5 if values.ndim == 2 else 6, maximum) + values.astype(">u2").tobytes()


def sgi(values: np.ndarray) -> bytes:
    return (
        struct.pack(">hBBHHHHll", 474, 0, 2, 2, 8, 8, 1, 0, 65535).ljust(512, b"\0")
        + values[::-1].astype(">u2").tobytes()
    )


OPAQUE = np.full((8, 8, 1), 65535, np.uint16)
TWELVE_OF_SIXTEEN = chunk(b"sBIT", b"\x0c")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(deep_png(ramp(16)), id="PNG"),
        pytest.param(deep_png(ramp(16), TWELVE_OF_SIXTEEN), id="PNG whose 12 significant bits are scaled to 16"),
        pytest.param(deep_png(colours(ramp(16))), id="PNG, colours"),
        pytest.param(deep_png(np.concatenate([ramp(16)[..., None], OPAQUE], -1)), id="PNG, grey with alpha"),
        pytest.param(deep_png(np.concatenate([colours(ramp(16)), OPAQUE], -1)), id="PNG, colours with alpha"),
        pytest.param(deep_tiff(ramp(16)), id="TIFF"),
        pytest.param(deep_tiff(ramp(16).astype(">u2")), id="TIFF, big-endian"),
        pytest.param(deep_tiff(65535 - ramp(16), photometric=0), id="TIFF whose zero is white"),
        pytest.param(deep_tiff(np.fliplr(ramp(16)), orientation=2), id="TIFF, mirrored"),
        pytest.param(deep_tiff(ramp(16), max_sample_value=4095), id="TIFF with a maximum that is exceeded"),
        pytest.param(deep_tiff(ramp(16), max_sample_value=65000), id="TIFF with a maximum that is a statistic"),
        pytest.param(deep_tiff(ramp(12), max_sample_value=4095), id="TIFF, 12 bits in 16"),
        pytest.param(deep_tiff(ramp(8).astype(np.int32), max_sample_value=255), id="TIFF, 8 bits in 32"),
        pytest.param(deep_tiff(ramp(12).astype(np.int32), max_sample_value=4095), id="TIFF, 12 bits in 32"),
        pytest.param(packed_tiff(ramp(12)), id="TIFF, 12 bits"),
        pytest.param(portable(ramp(16), 65535), id="PGM"),
        pytest.param(portable(ramp(12), 4095), id="PGM, 12 bits"),
        pytest.param(portable(np.rint(RAMP * 1000), 1000), id="PGM, values to 1000"),
        pytest.param(b"P2 8 8 1000\n" + b" ".join(b"%d" % v for v in np.rint(RAMP * 1000).ravel()), id="PGM, text"),
        pytest.param(portable(colours(ramp(16)), 65535), id="PPM"),
        pytest.param(portable(colours(ramp(12)), 4095), id="PPM, 12 bits"),
        pytest.param(sgi(ramp(16)), id="SGI"),
    ],
)
def test_more_than_8_bits_are_scaled_by_the_maximum_that_the_format_states(data: bytes) -> None:
    image = decode_image(data, fitted(8))
    assert np.abs(image.astype(int) - RAMP_8[..., None]).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize(
    ("write", "words"),
    [
        pytest.param(deep_png, "mode I;16, values 0 to {high} of 65535: as if fewer bits", id="PNG"),
        pytest.param(lambda v: deep_png(v, TWELVE_OF_SIXTEEN), "values 0 to {high} of 65535", id="PNG with sBIT"),
        pytest.param(lambda v: deep_png(colours(v)), "mode RGB of more than 8 bits per channel", id="PNG, colours"),
        pytest.param(
            lambda v: deep_png(np.concatenate([v[..., None], OPAQUE], -1)), "mode RGBA of more than 8", id="PNG, alpha"
        ),
        pytest.param(deep_tiff, "mode I;16, values 0 to {high} of 65535", id="TIFF"),
        pytest.param(lambda v: deep_tiff(v.astype(">u2")), "mode I;16B, values 0 to {high} of 65535", id="big-endian"),
        pytest.param(lambda v: portable(v, 65535), "mode I, values 0 to {high} of 65535", id="PGM"),
        pytest.param(lambda v: portable(colours(v), 65535), "mode RGB of more than 8 bits per channel", id="PPM"),
        pytest.param(sgi, "mode L of more than 8 bits per channel, values to", id="SGI"),
    ],
)
def test_fewer_bits_in_16_are_refused_rather_than_black_and_either_remedy_works(
    bits: int, write: Callable[[np.ndarray], bytes], words: str
) -> None:
    high = 2**bits - 1
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(write(ramp(bits)), fitted(8))
    assert words.format(high=high) in str(caught.value)
    assert str(caught.value).endswith("or save it with 8 bits")
    scaled = ramp(bits) * (65535 / high)
    assert np.abs(decode_image(write(scaled.astype(np.uint16)), fitted(8)).astype(int) - RAMP_8[..., None]).max() <= 1
    eight = Image.fromarray((ramp(bits) >> (bits - 8)).astype(np.uint8))
    assert np.abs(decode_image(encode(eight), fitted(8)).astype(int) - RAMP_8[..., None]).max() <= 1


def test_fewer_bits_in_16_of_which_zero_is_white_are_refused_rather_than_white() -> None:
    with pytest.raises(UnreadableImageError, match="mode I;16, values 0 to 255 of 65535: as if fewer bits"):
        decode_image(deep_tiff(255 - ramp(8), photometric=0), fitted(8))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (encode(Image.fromarray(ramp(8).astype(np.int32)), "TIFF"), "mode I, values 0 to 255"),
        (encode(Image.fromarray(ramp(16).astype(np.int32)), "TIFF"), "mode I, values 0 to 65535"),
        (encode(Image.fromarray(ramp(16).astype(np.int32) - 32768), "TIFF"), "mode I, values -32768 to 32767"),
        (deep_tiff(ramp(12), sample_format=2), "mode I, values 0 to 4095"),
        (encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "mode F, values 0 to 1"),
        (encode(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"), "mode F, values 0 to 255"),
    ],
)
def test_values_of_which_the_format_does_not_say_which_is_white_are_refused(data: bytes, found: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, fitted(8))
    assert str(caught.value) == (
        f"{found}: its format does not say which value is white; scale them to 0..255 and save it with 8 bits"
    )


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    data = deep_png(ramp(16), chunk(b"tRNS", struct.pack(">H", 0)))
    for channels in (1, 3):
        image = decode_image(data, fitted(8, channels))
        assert (image[0, 0] == 255).all()
        assert (image[0, 1:] < 40).all()


def test_a_transparent_grey_of_16_bits_is_transparent_in_rgba() -> None:
    image = decode_image(deep_png(ramp(16), chunk(b"tRNS", struct.pack(">H", 0))), fitted(8, 4))
    assert image[0, 0, 3] == 0
    assert (image[..., 3].ravel()[1:] == 255).all()
    assert (image[..., :3].reshape(-1, 3)[1:] == RAMP_8.reshape(-1, 1)[1:]).all()


def test_a_picture_in_memory_is_read_as_its_file() -> None:
    for data in (packed_tiff(ramp(12)), deep_tiff(np.fliplr(ramp(16)), orientation=2), deep_png(ramp(16))):
        with Image.open(io.BytesIO(data)) as image:
            for channels in (1, 3, 4):
                assert (fit_image(image, fitted(8, channels)) == decode_image(data, fitted(8, channels))).all()


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    assert (decode_image(png(0), fitted(16)) == random_pixels(16, 16, 3)).all()


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
    assert (decode_image(encode(stored, exif=exif), fitted(8)) == upright).all()


PHOTOS = ("china.jpg", "flower.jpg")  # of scikit-learn, 640x427


def photo(name: str) -> bytes:
    return (Path(sklearn.datasets.__file__).parent / "images" / name).read_bytes()


def decoded_in_full(data: bytes, size: int, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(ImageOps.fit(image, (size, size), resampling))


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Return decibels, infinity for equal pixels."""
    power = float(np.square(found.astype(float) - expected).mean())
    return 10 * np.log10(255**2 / power) if power else np.inf


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [24, 26, 27, 32, 53, 64, 100, 106, 107, 224])
def test_a_jpeg_that_is_decoded_at_a_scale_differs_by_much_less_than_another_filter_does(name: str, size: int) -> None:
    expected = decoded_in_full(photo(name), size)
    bicubic = psnr(decoded_in_full(photo(name), size, Image.Resampling.BICUBIC), expected)
    assert psnr(decode_image(photo(name), fitted(size)), expected) > max(45, bicubic + 5)


@pytest.mark.parametrize(("size", "scale"), [(26, 8), (27, 4), (53, 4), (54, 2), (106, 2), (107, 1), (224, 1)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_leaves_twice_the_size(
    size: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    resize = Image.Image.resize
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", lambda image, *rest: decoded.append(image.size) or resize(image, *rest))
        pixels = decode_image(photo("china.jpg"), fitted(size))
    assert decoded == [(-(-640 // scale), -(-427 // scale))]
    assert scale > 1 or (pixels == decoded_in_full(photo("china.jpg"), size)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_is_decoded_at_a_scale_is_turned_about_its_center(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.open(io.BytesIO(photo("china.jpg"))), "JPEG", quality=95, exif=exif)
    # Of 427 rows at a scale of 1/4, the last one is there in part: a shift by it would leave 37 dB.
    assert psnr(decode_image(data, fitted(48)), decoded_in_full(data, 48)) > 46


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_opened_jpeg_is_fitted_as_its_file_is_and_stays_unchanged(channels: int) -> None:
    with Image.open(io.BytesIO(photo("flower.jpg"))) as image:
        assert (fit_image(image, fitted(32, channels)) == decode_image(photo("flower.jpg"), fitted(32, channels))).all()
        assert (image.size, image.mode) == ((640, 427), "RGB")
        assert np.asarray(image).shape == (427, 640, 3)
        assert psnr(fit_image(image, fitted(32)), decode_image(photo("flower.jpg"), fitted(32))) > 46


@pytest.mark.parametrize("upright", [False, True])
def test_an_image_is_cropped_in_the_middle_to_a_square(upright: bool) -> None:
    middle = random_pixels(8, 8, 3)
    image = np.pad(middle, ((0, 0), (5, 5), (0, 0)))
    expected = middle.swapaxes(0, 1) if upright else middle
    assert (
        decode_image(encode(Image.fromarray(image.swapaxes(0, 1) if upright else image)), fitted(8)) == expected
    ).all()


def test_a_large_image_is_averaged_not_sampled() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    inner = decode_image(encode(Image.fromarray(stripes)), fitted(8))[:, 1:-1].astype(int)
    assert np.abs(inner - 100).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_the_smallest_and_the_longest_images_are_images(size: tuple[int, int]) -> None:
    assert (decode_image(encode(Image.new("RGB", size, RED)), fitted(8)) == RED).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel reports the peak in /proc")
def test_transparency_takes_the_memory_of_one_more_image() -> None:
    program = """
import re
from pathlib import Path
import sklearn.datasets
from PIL import Image, ImageOps
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.decoding import fit_image

def most() -> int:
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

start = most()
image = Image.new("LA", (4000, 6000), (77, 128))
loaded = most()
fit_image(image, Preprocessing.default((8, 8)))
print((most() - loaded) / (loaded - start))
"""
    source = str(Path(ptqflow.__file__).parents[1])
    output = subprocess.check_output([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": source})
    assert float(output) < 1.5


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_an_image_that_is_converted_in_strips_has_the_pixels_of_each(mode: str, channels: int) -> None:
    pixels = random_pixels(1200, 1000, 4) | 16  # or a pixel of 16 bits may be refused, alone, as black
    image = Image.fromarray(pixels.view(np.uint16)[..., 0]) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    rows = [np.stack([fit_image(image.crop((i, i, i + 1, i + 1)), fitted(1, channels))[0, 0]]) for i in range(1000)]
    square = fit_image(image.crop((0, 0, 1000, 1000)), fitted(1000, channels))
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
    ],
)
def test_what_cannot_be_read_completely_is_an_error_that_says_why(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, fitted(8))
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
            assert decode_image(data.tobytes(), fitted(8)).shape == (8, 8, 3)
        except UnreadableImageError:
            errors += 1
    assert errors > 0


def test_arrays_of_the_right_size_are_kept_and_grey_ones_become_rgb() -> None:
    colours = random_pixels(2, 8, 8, 3)
    assert (fit_arrays(colours, fitted(8)) == colours).all()
    grey = colours[..., 0]
    for images in (grey, grey[..., None]):
        assert (fit_arrays(images, fitted(8, 1)) == grey[..., None]).all()
        assert (fit_arrays(images, fitted(8)) == grey[..., None]).all()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_arrays_are_scaled_as_image_files_are(mode: str, channels: int) -> None:
    images = [Image.fromarray(random_pixels(20, 20, 4, seed=seed)).convert(mode) for seed in range(2)]
    expected = [decode_image(encode(image), fitted(8, channels)) for image in images]
    arrays = np.stack([np.asarray(image).reshape(20, 20, channels) for image in images])
    assert (fit_arrays(arrays, fitted(8, channels)) == np.stack(expected)).all()


def test_grey_arrays_of_one_column_are_images_too() -> None:
    grey = random_pixels(2, 8, 1)
    assert fit_arrays(grey, fitted(8, 1)).shape == (2, 8, 8, 1)
    assert (fit_arrays(grey, fitted(8, 1)) == fit_arrays(grey[..., None], fitted(8, 1))).all()


def test_an_image_of_more_pixels_than_allowed_is_refused_by_its_header() -> None:
    square = encode(Image.new("L", (1000, 1000)))
    assert decode_image(square, fitted(8), 1).shape == (8, 8, 3)
    wide = encode(Image.new("L", (1001, 1000)))
    with pytest.raises(UnreadableImageError, match=r"^1001 x 1000 pixels, and data\.max_megapixels=1 allows fewer; "):
        decode_image(wide[:100], fitted(8), 1)


def test_postscript_is_a_program_and_is_not_run() -> None:
    with pytest.raises(UnreadableImageError, match=r"^PostScript is a program, which is not run"):
        decode_image(encode(Image.new("RGB", (8, 8)), "EPS"), fitted(8))


def test_libtiff_prints_nothing_about_a_broken_file(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encode(Image.fromarray(random_pixels(64, 64, 3)), "TIFF", compression="tiff_lzw")
    for place in range(8, 2000, 100):
        broken = whole[:place] + b"\xff" * 64 + whole[place + 64 :]
        with suppress(UnreadableImageError):
            decode_image(broken, fitted(8))
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
