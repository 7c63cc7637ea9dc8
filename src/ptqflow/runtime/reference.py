"""What torch computed when a model was exported, with which runtimes are compared; read without torch."""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.artifacts import write_bytes
from ptqflow.core.errors import ArtifactError
from ptqflow.core.normalization import InputShape
from ptqflow.runtime.manifest import REFERENCE, Manifest, check_file

_MOST_BYTES = 1 << 30
_DAMAGES = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
IMAGES = 64
"""How many images `generate_images` is called for."""


@dataclass(frozen=True)
class Reference:
    """Outputs of torch's networks: float32 logits (IMAGES, classes) of generated images, and classes (N,) of test."""

    int8: NDArray[np.float32]
    fp32: NDArray[np.float32]
    predicted: NDArray[np.int64]
    """By the INT8 network, in the order of the test images."""
    fp32_predicted: NDArray[np.int64]
    """By the FP32 network, in the same order."""


def write_reference(directory: Path, reference: Reference) -> None:
    """Write the reference of an exported model; equal bytes for equal arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **vars(reference))
    write_bytes(directory / REFERENCE, buffer.getvalue())


def read_reference(directory: Path, manifest: Manifest) -> Reference:
    """Read the reference of an exported model.

    Raises:
        ArtifactError: it is missing, changed, or not what this version writes.
    """
    file = check_file(directory, manifest, REFERENCE)
    try:
        _require_size(file)
        with np.load(file, allow_pickle=False) as arrays:
            reference = Reference(**{field.name: arrays[field.name] for field in fields(Reference)})
        return _with_shapes(reference, len(manifest.classes))
    except _DAMAGES as error:
        raise ArtifactError(f"{file} is not what the stage `export` writes: {error}; run `dvc repro`") from None


def _require_size(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"its arrays have {size:,} bytes, and {_MOST_BYTES:,} are the most")


def _with_shapes(reference: Reference, classes: int) -> Reference:
    """Return a reference whose arrays have the shapes and dtypes that `write_reference` writes."""
    for name in ("int8", "fp32"):
        logits = getattr(reference, name)
        if logits.shape != (IMAGES, classes) or logits.dtype != np.float32 or not np.isfinite(logits).all():
            raise ValueError(f"{name} is not finite float32 ({IMAGES}, {classes})")
    for name in ("predicted", "fp32_predicted"):
        predicted = getattr(reference, name)
        if predicted.shape != (len(reference.predicted),) or predicted.dtype != np.int64:
            raise ValueError(f"{name} is not int64 ({len(reference.predicted)},)")
    return reference


def generate_images(count: int, input_shape: InputShape) -> NDArray[np.uint8]:
    """Return uint8 images (count, H, W, C): random colours in grids of 2x2, 4x4, …, scaled smoothly.

    Random pixels alone would have no large areas, which photographs have.
    """
    channels, height, width = input_shape
    draw = np.random.Generator(np.random.PCG64(0))  # by name, since NumPy may change its default
    grids = [min(2**power, height) for power in range(1, math.ceil(math.log2(height)) + 1)]
    small = (_draw_image(draw, grids[i % len(grids)], channels) for i in range(count))
    return np.stack([np.asarray(image.resize((width, height))) for image in small]).reshape(-1, height, width, channels)


def _draw_image(draw: np.random.Generator, side: int, channels: int) -> Image.Image:
    shape = (side, side) if channels == 1 else (side, side, channels)
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
