"""The logits of a network for the test images, on disk: computed once, read without torch by all that compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from safetensors import SafetensorError

from ptqflow.core.artifacts import REMEDY, Card, HashedFile, new_directory
from ptqflow.core.errors import ArtifactError
from ptqflow.core.paths import LOGITS
from ptqflow.data.dataset import DatasetCard

NetworkName = Literal["fp32", "int8_uncalibrated", "int8"]
NETWORKS: tuple[NetworkName, ...] = ("fp32", "int8_uncalibrated", "int8")


class LogitsCard(Card):
    """What the logits are of."""

    format_version: Literal[2] = 2
    network: NetworkName
    classes: tuple[str, ...]
    test_sha256: str
    """Hash of the images, then the labels, of the test split."""
    fp32_sha256: str
    """Hash of the weights of the FP32 network, also of that from which an INT8 one was made."""
    model_sha256: str
    """Hash of the network's own file."""
    model_bytes: PositiveInt
    """Size of that file."""
    fp32_layers: NonNegativeInt = 0
    """Of an INT8 network, the layers that run in FP32."""
    calib_images: NonNegativeInt = 0
    """That its ranges come from."""
    min_sqnr_db: float | None = None
    """The least median SQNR to FP32, in decibels, that is accepted; None: no limit."""
    batch_size: PositiveInt
    """Images of a forward pass, on which the rounding of FP32 layers depends."""
    logits_sha256: str = ""


LOGITS_FILE = HashedFile("logits.safetensors", LogitsCard, "logits_sha256", "predict")


@dataclass(frozen=True)
class Logits:
    """Of one network."""

    values: NDArray[np.float32]
    """(N, classes), for the test images in their order."""
    card: LogitsCard


def save_logits(directory: Path, values: NDArray[np.float32], card: LogitsCard) -> None:
    """Write logits (N, classes) and their card, whole or not at all; equal logits make equal bytes."""
    with new_directory(directory) as partial:
        LOGITS_FILE.write(partial, safetensors.numpy.save({"logits": np.ascontiguousarray(values)}), card)


def load_logits(directory: Path) -> Logits:
    """Read logits back.

    Raises:
        ArtifactError: a file is missing or changed.
    """
    data, card = LOGITS_FILE.read(directory)
    try:
        return Logits(safetensors.numpy.load(data)["logits"], card)
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{LOGITS_FILE.path(directory)} cannot be read ({error}); {REMEDY}") from None


def load_all_logits(dataset: DatasetCard) -> Mapping[NetworkName, Logits]:
    """Read the logits of all networks, which belong together.

    Args:
        dataset: with the test images that they must be for.

    Raises:
        ArtifactError: a file is missing or changed; or logits are of other images, or of a network that was made from
            other FP32 weights.
    """
    found = {name: load_logits(LOGITS / name) for name in NETWORKS}
    for name, logits in found.items():
        require_logits_of(logits, dataset, found["fp32"].card.model_sha256, LOGITS / name)
    return found


def require_logits_of(logits: Logits, dataset: DatasetCard, fp32_sha256: str, directory: Path) -> None:
    """Require that logits are for these test images, and of an FP32 network or one that was made from it.

    Raises:
        ArtifactError: they are not.
    """
    if logits.card.test_sha256 != dataset.sha256["test"]:
        raise ArtifactError(f"{directory} holds logits for other test images; run `dvc repro`")
    if logits.card.fp32_sha256 != fp32_sha256:
        raise ArtifactError(f"{directory} holds logits of a network with other FP32 weights; run `dvc repro`")
