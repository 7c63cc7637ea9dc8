from pathlib import Path

import numpy as np
import pytest
from evaluation import evaluation_figures

from ptqflow.core.errors import ArtifactError
from ptqflow.data.logits import NETWORKS
from ptqflow.evaluate.predictions import PredictionsCard, load_predictions, predict, save_predictions

CARD = PredictionsCard(classes=("cat", "dog", "eel"), test_sha256="0" * 64)
LABELS = np.array([0, 1, 2, 0])


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    predictions = {name: predict(logits(seed)) for seed, name in enumerate(NETWORKS)}
    save_predictions(tmp_path / "predictions", predictions, LABELS, CARD, evaluation_figures())
    return tmp_path / "predictions"


def test_class_margin_and_confidence_are_those_of_the_probabilities() -> None:
    prediction = predict(np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.4, 0.4, 0.2]])))

    assert prediction.predicted.tolist() == [0, 2, 0]
    assert prediction.margin == pytest.approx([0.5, 0.25, 0.0], abs=1e-6)
    assert prediction.confidence == pytest.approx([0.7, 0.5, 0.4], abs=1e-6)
    assert [array.dtype for array in vars(prediction).values()] == [np.int64, np.float32, np.float32]


def test_huge_logits_have_probabilities() -> None:
    prediction = predict(np.array([[1e4, -1e4], [0.0, 0.0]]))
    assert prediction.confidence.tolist() == [1.0, 0.5]


def test_what_is_saved_comes_back(directory: Path) -> None:
    found = load_predictions(directory)

    assert found.card.test_sha256 == CARD.test_sha256
    assert np.array_equal(found.labels, LABELS)
    for seed, name in enumerate(NETWORKS):
        expected = predict(logits(seed))
        for part, array in vars(expected).items():
            assert np.array_equal(getattr(found.networks[name], part), array)


def test_equal_predictions_have_equal_bytes(directory: Path, tmp_path: Path) -> None:
    found = load_predictions(directory)
    save_predictions(tmp_path / "again", found.networks, found.labels, CARD, evaluation_figures())
    for file in directory.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_changed_or_missing_files_are_one_line(directory: Path) -> None:
    file = directory / "predictions.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="is missing or not the file that `evaluate` wrote"):
        load_predictions(directory)
    file.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load_predictions(directory)
