"""HEIC, which phones write and an optional package, pillow-heif, decodes."""

import io
import re
import struct

from PIL import Image

SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}  # ISO/IEC 23008-12, of HEVC
_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # version and flags, width, height


def is_heic(data: bytes) -> bool:
    """Return whether the header of a file says that it holds images coded as HEVC."""
    brands = data[8 : min(int.from_bytes(data[:4]), 256)]
    return data[4:8] == b"ftyp" and not _BRANDS.isdisjoint(brands[i : i + 4] for i in range(0, len(brands), 4))


def open_heic(data: bytes) -> Image.Image:
    """Open an image as `Image.open` does, without making Pillow use pillow-heif for other files.

    It is upright: libheif applies the rotation, and pillow-heif resets that of EXIF.

    Raises:
        ModuleNotFoundError: pillow-heif is not installed.
        SyntaxError: the image is damaged.
    """
    from pillow_heif import HeifImageFile

    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image


def stated_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height of each image in an HEIC or AVIF file.

    The one that is shown may be a small part of one of them. libheif decodes none that is larger than stated.
    """
    return list(struct.iter_unpack(">II", b"".join(_SIZE.findall(data))))
