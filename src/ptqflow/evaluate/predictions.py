"""What each network predicts for each test image, kept so that two commits can be compared image by image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError
from scipy.special import softmax

from ptqflow.core.artifacts import REMEDY, Card, HashedFile, new_directory, write_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import Figures
from ptqflow.core.paths import FIGURES
from ptqflow.data.batching import in_blocks
from ptqflow.data.logits import NETWORKS


@dataclass(frozen=True)
class Prediction:
    """Of one network, for N images."""

    predicted: NDArray[np.int64]
    """(N,), the class with the largest logit, the first of equal ones."""
    margin: NDArray[np.float32]
    """(N,), by how much its probability exceeds that of the second, 0 to 1."""
    confidence: NDArray[np.float32]
    """(N,), its probability, 0 to 1."""


@dataclass(frozen=True)
class Predictions:
    """Of all networks, on the test split in its order."""

    card: "PredictionsCard"
    labels: NDArray[np.int64] | None
    """(N,), index into the card's classes; None where there are no labels."""
    networks: dict[str, Prediction]
    """By the names in `NETWORKS`."""


class PredictionsCard(Card):
    """What the predictions are of."""

    format_version: Literal[1] = 1
    classes: tuple[str, ...]
    test_sha256: str
    """Hash of the images, then the labels, of the test split."""
    predictions_sha256: str = ""


PREDICTIONS_FILE = HashedFile("predictions.safetensors", PredictionsCard, "predictions_sha256", "evaluate")


def predict(logits: NDArray[np.floating]) -> Prediction:
    """Return class, margin and confidence of each row of logits (N, classes), two classes or more."""
    second, first = in_blocks(_two_largest, logits).T
    return Prediction(
        predicted=logits.argmax(axis=1).astype(np.int64),
        margin=(first - second).astype(np.float32),
        confidence=first.astype(np.float32),
    )


def _two_largest(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the two largest probabilities of each row, the second first, (N, 2)."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    largest: NDArray[np.float64] = np.partition(probabilities, -2, axis=1)[:, -2:]
    return largest


def changed_rows(first: Prediction, second: Prediction) -> NDArray[np.int64]:
    """Return the images that two networks take for different classes, those with the largest sum of margins first."""
    rows = np.flatnonzero(first.predicted != second.predicted)
    return rows[np.argsort(-(first.margin + second.margin)[rows], kind="stable")]


def save_predictions(
    directory: Path,
    predictions: Mapping[str, Prediction],
    labels: NDArray[np.int64] | None,
    card: PredictionsCard,
    figures: Figures,
) -> None:
    """Write predictions, card and figures, whole or not at all, with equal bytes for equal predictions."""
    arrays: dict[str, NDArray[Any]] = {} if labels is None else {"labels": np.ascontiguousarray(labels)}
    for name, prediction in predictions.items():
        arrays |= {f"{name}.{part}": array for part, array in vars(prediction).items()}
    with new_directory(directory) as partial:
        PREDICTIONS_FILE.write(partial, safetensors.numpy.save(arrays), card)
        write_card(partial / FIGURES.name, figures)


def load_predictions(directory: Path) -> Predictions:
    """Read the predictions back.

    Raises:
        ArtifactError: a file is missing or changed.
    """
    data, card = PREDICTIONS_FILE.read(directory)
    try:
        arrays = safetensors.numpy.load(data)
        networks: dict[str, Prediction] = {
            name: Prediction(*(arrays[f"{name}.{part}"] for part in ("predicted", "margin", "confidence")))
            for name in NETWORKS
        }
        return Predictions(card, arrays.get("labels"), networks)
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{PREDICTIONS_FILE.path(directory)} cannot be read ({error}); {REMEDY}") from None
