"""What an exported model is: model.json beside its files, read without torch."""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ptqflow.artifacts import Card, read_card, sha256_file
from ptqflow.errors import ArtifactError

VERSION = "0.1.0"
"""Of ptqflow, as pyproject.toml has it."""

MANIFEST_FILE = "model.json"
INT8_ONNX = "int8.onnx"
FP32_ONNX = "fp32.onnx"
INT8_TORCHSCRIPT = "int8.torchscript.pt"
ONNX_FILES = (INT8_ONNX, FP32_ONNX)
INPUT: Final = "images"
OUTPUT: Final = "logits"

Channels = tuple[float, float, float]


class InputCard(Card):
    """What a network takes: (pixel / 255 - mean) / std, float32 (N, 3, image_size, image_size), any N."""

    name: Literal["images"] = INPUT
    dtype: Literal["float32"] = "float32"
    layout: Literal["NCHW"] = "NCHW"
    color: Literal["RGB"] = "RGB"
    mean: Channels
    """Channel mean, pixels in 0..1."""
    std: Channels
    """Channel standard deviation, pixels in 0..1."""


class OutputCard(Card):
    """What a network gives: float32 (N, classes)."""

    name: Literal["logits"] = OUTPUT


class Needs(Card):
    """What the kernels of torch need of a CPU; ONNX Runtime and OpenVINO run everywhere."""

    vnni: bool
    """On x86: that 8-bit activations do not overflow."""


class CalibrationCard(Card):
    """The images that the ranges of the activations come from."""

    images: PositiveInt
    indices_sha256: str
    """Of their rows in the train split, little-endian int64, in the order in which they were seen."""


class LayerCard(Card):
    """A step that computes something."""

    name: str
    operation: str
    precision: Literal["int8", "fp32"]
    scale: PositiveFloat | None
    """Of its output; None where that is FP32."""
    zero_point: NonNegativeInt | None


class FileCard(Card):
    """A file beside the manifest."""

    sha256: str
    bytes: PositiveInt


class Manifest(Card):
    """What an exported model is, what it was made from, and what it is worth."""

    format_version: Literal[1] = 1
    ptqflow_version: str
    architecture: str
    """A torchvision classifier, or the user's `module:function`."""
    stem: str
    classes: tuple[str, ...]
    """In the order of the logits."""
    image_size: PositiveInt
    """Height and width in pixels."""
    input: InputCard
    output: OutputCard = OutputCard()
    engine: str
    """Of torch, that the TorchScript file runs on."""
    needs: Needs
    torch_version: str
    params: dict[str, dict[str, Any]]
    """The sections data, model, train, calib and convert, without the places of files on the machine that ran them."""
    dataset_sha256: dict[str, str]
    """Images, then labels, of each split."""
    code_sha256: str
    """Of the modules that made the files, the user's network among them."""
    calibration: CalibrationCard
    layers: tuple[LayerCard, ...]
    """In the order in which they run."""
    files: dict[str, FileCard]
    metrics: dict[str, Any]
    """metrics/evaluate.json without its classes: what torch measured on the test images."""


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an exported model.

    Raises:
        ArtifactError: it is missing, or not what this version writes.
    """
    return read_card(directory / MANIFEST_FILE, Manifest)


def check_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of a file after its bytes have been found to be those that were exported.

    Raises:
        ArtifactError: the manifest has no such file, or it is missing or changed.
    """
    path = directory / name
    if name not in manifest.files:
        raise ArtifactError(f"{directory} has no {name}, only {', '.join(sorted(manifest.files))}")
    if not path.is_file() or sha256_file(path) != manifest.files[name].sha256:
        raise ArtifactError(f"{path} is missing or not the file that `export` wrote; run `dvc repro`")
    return path
