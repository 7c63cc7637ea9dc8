"""What each network predicted for each test image, read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ptqflow.artifacts import Card, read_card, sha256_file
from ptqflow.errors import ArtifactError

PREDICTIONS_FILE = "predictions.safetensors"


class PredictionsCard(Card):
    """What the arrays of predictions belong to."""

    format_version: Literal[1] = 1
    classes: tuple[str, ...]
    test_sha256: str
    """Of the test images and labels, as on the dataset's card."""
    sha256: str
    """Of the file with the arrays."""


@dataclass(frozen=True)
class Predictions:
    """Of one network."""

    predicted: NDArray[np.int64]
    """(N,), index into the classes."""
    margin: NDArray[np.float32]
    """(N,), largest minus second largest probability."""


def read_predictions(directory: Path, test_sha256: str) -> dict[str, Predictions]:
    """Read the predictions of `fp32`, `int8_uncalibrated` and `int8`.

    Raises:
        ArtifactError: a file is missing or changed, or the predictions are of other images.
    """
    card = read_card(directory / "card.json", PredictionsCard)
    file = directory / PREDICTIONS_FILE
    if not file.exists() or sha256_file(file) != card.sha256:
        raise ArtifactError(f"{file} is missing or not the file that `evaluate` wrote; run `dvc repro`")
    if card.test_sha256 != test_sha256:
        raise ArtifactError(f"{directory} holds predictions of other test images; run `dvc repro`")
    try:
        arrays = safetensors.numpy.load(file.read_bytes())
        return {
            name: Predictions(arrays[f"{name}.predicted"], arrays[f"{name}.margin"])
            for name in ("fp32", "int8_uncalibrated", "int8")
        }
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}); run `dvc repro`") from None
