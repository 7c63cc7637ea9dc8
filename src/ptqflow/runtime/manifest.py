"""The manifest of an exported model, model.json beside its files; read without torch."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from ptqflow.core.artifacts import REMEDY, Card, read_card, read_regular, sha256_file, write_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import Figures
from ptqflow.core.normalization import InputShape, Normalization
from ptqflow.core.preprocessing import Preprocessing

MANIFEST_FILE = "model.json"
FORMAT_VERSION: Final = 2
INT8_ONNX = "int8.onnx"
FP32_ONNX = "fp32.onnx"
INT8_TORCHSCRIPT = "int8.torchscript.pt"
REFERENCE = "reference.npz"
ONNX_FILES = (INT8_ONNX, FP32_ONNX)
INPUT: Final = "images"
OUTPUT: Final = "logits"

Share = Annotated[float, Field(gt=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
"""Of a file in the directory of the manifest, so no path."""
_MOST_BYTES = 1 << 25
"""Of a manifest; a network of a thousand layers and classes has 0.2 MB."""
_LEAST_STD, _LARGEST = 1e-6, 1e6

_COPY_AGAIN = "copy the whole directory again"


class InputCard(Normalization):
    """Input of a network: (pixel / 255 * input_range - mean) / std, float32 (N, channels, height, width), any N."""

    name: Literal["images"] = INPUT
    dtype: Literal["float32"] = "float32"
    layout: Literal["NCHW"] = "NCHW"

    @classmethod
    def of(cls, normalization: Normalization) -> Self:
        """Describe the input of a network by its normalization."""
        return cls(**normalization.model_dump())

    @model_validator(mode="after")
    def _numbers_are_of_pixels(self) -> Self:
        if not all(_LEAST_STD <= std <= _LARGEST for std in self.std):
            raise ValueError(f"std is {list(self.std)}, not between {_LEAST_STD:g} and {_LARGEST:g}")
        if not all(abs(mean) <= _LARGEST for mean in self.mean):
            raise ValueError(f"mean is {list(self.mean)}, not between {-_LARGEST:g} and {_LARGEST:g}")
        return self


class OutputCard(Card):
    """Output of a network: float32 (N, classes)."""

    name: Literal["logits"] = OUTPUT


class Needs(Card):
    """What the INT8 kernels of torch and OpenVINO require of a CPU; ONNX Runtime runs on any."""

    vnni: bool
    """On x86: the activations have 8 bits, whose sums overflow in these kernels without VNNI. QNNPACK's do not."""


class CalibrationCard(Card):
    """The images from which the ranges of the activations were computed."""

    images: PositiveInt
    indices_sha256: Sha256
    """Of their rows in the train split, little-endian int64, in the order in which they were seen."""


class LayerCard(Card):
    """A layer of the INT8 network."""

    name: str
    operation: str
    precision: Literal["int8", "fp32"]
    scale: PositiveFloat | None
    """Of its output; None where that is FP32."""
    zero_point: NonNegativeInt | None


class FileCard(Card):
    """A file in the directory of the manifest."""

    sha256: Sha256
    bytes: PositiveInt


class Manifest(Card):
    """What an exported model is, what it was made from, and its accuracy."""

    format_version: Literal[2]
    """Of this file and of those beside it; it grows when an older ptqflow could not read them."""
    ptqflow_version: str
    architecture: str
    """A torchvision classifier, or the user's `module:function`."""
    stem: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """In the order of the logits."""
    preprocessing: Preprocessing
    """From an image to the pixels of the input."""
    input: InputCard
    output: OutputCard = OutputCard()
    engine: str
    """Of torch, on which the TorchScript file runs."""
    needs: Needs
    torch_version: str
    params: dict[str, dict[str, Any]]
    """The sections data, model, train, calib and convert, without the places of files on the machine that ran them.
    `model.weights` is there where it is the name of published weights."""
    dataset_sha256: dict[str, str]
    """Images, then labels, of each split."""
    code_sha256: Sha256
    """Of the packages of ptqflow that the stage `export` depends on."""
    model_code_sha256: Sha256 | None
    """Of the module of the user's network; None for one of torchvision's."""
    weights_sha256: Sha256
    """Of the FP32 weights that were quantized, as `train` wrote them."""
    calibration: CalibrationCard
    layers: tuple[LayerCard, ...]
    """In the order in which they run."""
    files: dict[FileName, FileCard]
    margin: Share
    """`export.margin`: share of the test images by which a runtime may be worse than torch's INT8 network."""
    metrics: Figures
    """data/predictions/figures.json: what torch measured on the test images."""

    @property
    def input_shape(self) -> InputShape:
        """Channels, height and width of an image."""
        return self.preprocessing.input_shape

    @model_validator(mode="after")
    def _mean_has_the_channels(self) -> Self:
        if self.input.channels != self.preprocessing.channels:
            raise ValueError(
                f"input.mean has {self.input.channels} values, and preprocessing.color is {self.preprocessing.color}"
            )
        return self


class _Versioned(BaseModel):
    """What manifests of all formats have."""

    format_version: int


def describe_file(file: Path) -> FileCard:
    """Return the card of an exported file."""
    return FileCard(sha256=sha256_file(file), bytes=file.stat().st_size)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of an exported model."""
    write_card(directory / MANIFEST_FILE, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an exported model.

    Raises:
        ArtifactError: it is missing, of another format, or not what this version writes.
    """
    path = directory / MANIFEST_FILE
    if (found := _format_version(path)) is not None and found != FORMAT_VERSION:
        remedy = "install a newer ptqflow" if found > FORMAT_VERSION else f"run `dvc repro`, or {_COPY_AGAIN}"
        raise ArtifactError(f"{path} is of format {found}, and this ptqflow reads format {FORMAT_VERSION}: {remedy}")
    try:
        return read_card(path, Manifest)
    except ArtifactError as error:
        raise ArtifactError(f"{error}, or {_COPY_AGAIN}") from None


def _format_version(path: Path) -> int | None:
    """Return the format version in a manifest, None if there is none."""
    try:
        return _Versioned.model_validate_json(
            read_regular(path, _MOST_BYTES, f"{REMEDY}, or {_COPY_AGAIN}")
        ).format_version
    except (OSError, ValidationError):
        return None


def check_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of an exported file after checking its hash.

    Raises:
        ArtifactError: the manifest has no such file, or it is missing or changed.
    """
    path = directory / name
    if name not in manifest.files:
        raise ArtifactError(f"{directory} has no {name}, only {', '.join(sorted(manifest.files))}")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run `dvc repro`, or {_COPY_AGAIN}")
    card = manifest.files[name]
    if path.stat().st_size != card.bytes or sha256_file(path) != card.sha256:
        raise ArtifactError(
            f"{path} has changed: its hash is not the one in {MANIFEST_FILE}; run `dvc repro`, or {_COPY_AGAIN}"
        )
    return path
