import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ptqflow.core.figures import CLASSES, RELIABILITY, read_evaluation_figures
from ptqflow.core.paths import PREDICTIONS
from ptqflow.evaluate.metrics import compare
from ptqflow.evaluate.predictions import NETWORKS, load_predictions
from ptqflow.evaluate.writing import write_evaluation
from ptqflow.models.fidelity import median_sqnr_db

NAMES = ("ant", "bee", "cat")
LABELS = np.arange(30) % 3


@pytest.fixture
def logits() -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.random.default_rng(seed).normal(size=(30, 3))) for seed, name in enumerate(NETWORKS)
    }


@pytest.fixture
def files() -> dict[str, Path]:
    made = {name: Path(name) for name in NETWORKS}
    for size, file in enumerate(made.values(), 1):
        file.write_bytes(bytes(size * 1000))
    return made


def test_all_figures_lie_beside_the_predictions_and_the_headline_in_metrics(
    logits: dict[str, torch.Tensor], files: dict[str, Path]
) -> None:
    figures = write_evaluation(logits, files, LABELS, NAMES, "0" * 64)

    sizes = {"fp32": 1000, "int8_uncalibrated": 2000, "int8": 3000}
    assert figures == read_evaluation_figures() == compare(logits, sizes, LABELS)
    assert figures.median_sqnr_db == pytest.approx(median_sqnr_db(logits["int8"], logits["fp32"]), abs=1e-4)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics == figures.headline().model_dump()
    predictions = load_predictions(PREDICTIONS)
    assert (predictions.card.classes, predictions.card.test_sha256) == (NAMES, "0" * 64)
    assert np.array_equal(predictions.networks["int8"].predicted, logits["int8"].argmax(dim=1).numpy())


def test_every_network_has_its_tables(logits: dict[str, torch.Tensor], files: dict[str, Path]) -> None:
    write_evaluation(logits, files, LABELS, NAMES, "0" * 64)
    tables = {file.name for file in Path("metrics/plots").iterdir()}
    assert tables == {
        "classes.csv",
        "reliability.csv",
        *(f"{table}_{name}.csv" for table in ("confusion", "per_class") for name in NETWORKS),
    }
    assert [row.name for row in CLASSES.read()] == list(NAMES)
    assert {row.network for row in RELIABILITY.read()} == set(NETWORKS)


def test_equal_logits_have_no_sqnr(logits: dict[str, torch.Tensor], files: dict[str, Path]) -> None:
    figures = write_evaluation(logits | {"int8": logits["fp32"]}, files, LABELS, NAMES, "0" * 64)
    assert (figures.sqnr_db, figures.median_sqnr_db) == (None, None)
    assert "median_sqnr_db" not in json.loads(Path("metrics/evaluate.json").read_text())
