"""Image files of any mode and size as RGB arrays of one size."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# What Pillow's decoders raise on bytes that are no image, or not all of one.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,  # AVIF; DDS and BLP, whose NotImplementedError is one
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """The bytes are not an image that Pillow reads completely."""


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode any image that Pillow reads to uint8 RGB of shape (size, size, 3).

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits. The image is cropped in
    the middle to a square and scaled bilinearly with antialiasing.

    Raises:
        UnreadableImageError: not an image, truncated, larger than Pillow's decompression-bomb limit, or of floats.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return fit_image(ImageOps.exif_transpose(image), size)
    except UnidentifiedImageError:  # its text is the address of the bytes in memory
        raise UnreadableImageError("the format is none that Pillow knows") from None
    except _UNREADABLE as error:
        raise UnreadableImageError(str(error)) from None


def fit_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Convert to RGB, crop to a square in the middle and scale to (size, size, 3) uint8."""
    rgb = _to_rgb(image)
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def fit_arrays(images: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Scale uint8 images of shape (N, H, W) or (N, H, W, 3) to (N, size, size, 3)."""
    if images.shape[1:] == (size, size, 3):
        return images.astype(np.uint8, copy=False)
    return np.stack([fit_image(Image.fromarray(image), size) for image in images])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":  # Pillow clips to 0..255, so that values in 0..1 would be black
        raise UnreadableImageError("its values are floats, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I":
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
