"""Test images and large matrices as data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.preprocessing import ColorOrder
from ptqflow.data.dataset import Split
from ptqflow.evaluate.predictions import Prediction, changed_rows

_SHOWN = 24
_LARGEST_SIDE = 160  # pixels; larger images are scaled down and become JPEG, so that the page stays small
BLUE = (0, 114, 178)  # seen on a light and on a dark ground


@dataclass(frozen=True)
class ChangedImage:
    """A test image for which INT8 predicts another class than FP32."""

    row: int
    uri: str
    label: str | None
    """None where there are no labels."""
    fp32: str
    int8: str
    fp32_margin: float
    """Probability of the predicted class minus that of the runner-up."""
    int8_margin: float


def changed_images(
    test: Split, classes: Sequence[str], color: ColorOrder, fp32: Prediction, int8: Prediction
) -> list[ChangedImage]:
    """Return the changed predictions, those with the largest sum of margins first, 24 at most.

    Args:
        test: the images.
        classes: their names, in the order of the outputs.
        color: order of the channels.
        fp32: predictions before.
        int8: predictions after.
    """
    labels = test.labels
    rows = changed_rows(fp32, int8)[:_SHOWN]
    return [
        ChangedImage(
            row=int(row),
            uri=image_uri(pixels[..., ::-1] if color == "BGR" else pixels),
            label=None if labels is None else classes[labels[row]],
            fp32=classes[fp32.predicted[row]],
            int8=classes[int8.predicted[row]],
            fp32_margin=float(fp32.margin[row]),
            int8_margin=float(int8.margin[row]),
        )
        for row, pixels in zip(rows, test.read(rows), strict=True)
    ]


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image (height, width, channels) as a data URI.

    It is a PNG, unchanged, or where it is larger than 160 pixels a JPEG on 160, with transparency on white.
    """
    image = Image.fromarray(np.array(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    if max(image.size) <= _LARGEST_SIDE:
        return _uri(image, "PNG")
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _uri(image, "JPEG")


def matrix_uri(matrix: NDArray[np.int64]) -> str:
    """Return a matrix (classes, classes) of counts as a PNG of one pixel a cell.

    It is blue on a transparent ground; the root of the count is the opacity.
    """
    root = np.sqrt(matrix / max(int(matrix.max()), 1))
    pixels = np.zeros((*matrix.shape, 4), dtype=np.uint8)
    pixels[..., :3] = BLUE
    pixels[..., 3] = np.where(matrix == 0, 0, np.rint(64 + 191 * root))  # one image alone is seen too
    return _uri(Image.fromarray(pixels), "PNG")


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
