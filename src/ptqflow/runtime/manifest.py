"""What an exported model is: model.json beside its files, read without torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ptqflow.core.artifacts import Card, read_card, sha256_file, write_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.normalization import Normalization

VERSION = "0.1.0"
"""Of ptqflow, as pyproject.toml has it."""

MANIFEST_FILE = "model.json"
FORMAT_VERSION: Final = 1
INT8_ONNX = "int8.onnx"
FP32_ONNX = "fp32.onnx"
INT8_TORCHSCRIPT = "int8.torchscript.pt"
ONNX_FILES = (INT8_ONNX, FP32_ONNX)
INPUT: Final = "images"
OUTPUT: Final = "logits"

_COPY_AGAIN = "copy the whole of the directory again"


class InputCard(Normalization):
    """What a network takes: (pixel / 255 - mean) / std, float32 (N, 3, image_size, image_size), any N."""

    name: Literal["images"] = INPUT
    dtype: Literal["float32"] = "float32"
    layout: Literal["NCHW"] = "NCHW"
    color: Literal["RGB"] = "RGB"


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
    """The sections data, model, train, calib and convert, without the places of files on the machine that ran them.
    `model.weights` is there where it is the name of published weights."""
    dataset_sha256: dict[str, str]
    """Images, then labels, of each split."""
    code_sha256: str
    """Of all modules of ptqflow and the user's network, as they were when the stage `export` ran. Later changes that
    leave what it reads as it is, to the byte, do not show."""
    weights_sha256: str
    """Of the FP32 weights that were quantized, as `train` wrote them."""
    calibration: CalibrationCard
    layers: tuple[LayerCard, ...]
    """In the order in which they run."""
    files: dict[str, FileCard]
    metrics: dict[str, Any]
    """metrics/evaluate.json without its classes: what torch measured on the test images."""
    manifest_sha256: str = ""
    """Of all of the above, so that a change is noticed; it is no signature."""


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of an exported model with its own hash."""
    write_card(directory / MANIFEST_FILE, manifest.model_copy(update={"manifest_sha256": _hash_content(manifest)}))


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an exported model.

    Raises:
        ArtifactError: it is missing, changed, of a newer format, or not what this version writes.
    """
    path = directory / MANIFEST_FILE
    if (found := _format_version(path)) is not None and found > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} is of format {found}, and this ptqflow reads up to {FORMAT_VERSION}: install a newer ptqflow"
        )
    try:
        manifest = read_card(path, Manifest)
    except ArtifactError as error:
        raise ArtifactError(f"{error}, or {_COPY_AGAIN}") from None
    if manifest.manifest_sha256 != _hash_content(manifest):
        raise ArtifactError(
            f"{path} has changed: what it says does not have the hash that it names; run `dvc repro`, or {_COPY_AGAIN}"
        )
    return manifest


def _hash_content(manifest: Manifest) -> str:
    content = manifest.model_dump(mode="json", exclude={"manifest_sha256"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _format_version(path: Path) -> int | None:
    """Return the format that a manifest says it has, None where it says none."""
    try:
        version = json.loads(path.read_bytes())["format_version"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return version if isinstance(version, int) else None


def check_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of a file after its bytes have been found to be those that were exported.

    Raises:
        ArtifactError: the manifest has no such file, or it is missing or changed.
    """
    path = directory / name
    if name not in manifest.files:
        raise ArtifactError(f"{directory} has no {name}, only {', '.join(sorted(manifest.files))}")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run `dvc repro`, or {_COPY_AGAIN}")
    if sha256_file(path) != manifest.files[name].sha256:
        raise ArtifactError(
            f"{path} has changed: its hash is not the one in {MANIFEST_FILE}; run `dvc repro`, or {_COPY_AGAIN}"
        )
    return path
