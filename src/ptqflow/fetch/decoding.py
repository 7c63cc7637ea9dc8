"""Image files of any mode and size as RGB arrays of one size."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

_STRIP = 1_000_000  # pixels


class UnreadableImageError(Exception):
    """The bytes are not an image that Pillow reads completely."""


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image of any format that Pillow reads to uint8 RGB of shape (size, size, 3).

    EXIF rotation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits. The image is cropped
    to a square at its center and resized bilinearly with antialiasing.

    Raises:
        UnreadableImageError: not an image, truncated, larger than Pillow's decompression-bomb limit, or of floats.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return fit_image(image, size)
    except UnidentifiedImageError:  # its message is the address of the bytes in memory
        raise UnreadableImageError("Pillow does not know its format") from None
    except Exception as error:  # Pillow has about 40 plugins, which raise anything on damaged files
        raise UnreadableImageError(str(error) or type(error).__name__) from None


def fit_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Convert to RGB, crop to a square at the center and resize to (size, size, 3) uint8."""
    rgb = image if image.mode == "RGB" and not image.has_transparency_data else _to_rgb_in_strips(image)
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def fit_arrays(images: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Resize uint8 images of shape (N, H, W) or (N, H, W, 3) to (N, size, size, 3)."""
    if images.shape[1:] == (size, size, 3):
        return images.astype(np.uint8, copy=False)
    return np.stack([fit_image(Image.fromarray(image), size) for image in images])


def _to_rgb_in_strips(image: Image.Image) -> Image.Image:
    """Convert some rows at a time: at once, the intermediate images would take four times the memory of the image."""
    rows = max(1, _STRIP // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        rgb.paste(_to_rgb(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":  # Pillow clips to 0..255: values in 0..1 would be black
        raise UnreadableImageError("its values are floats of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I":
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
