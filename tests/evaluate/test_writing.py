import json
from pathlib import Path

import numpy as np
import pytest
from made_logits import BYTES, networks_of
from numpy.typing import NDArray

from ptqflow.core.errors import ModelError
from ptqflow.core.figures import CLASSES, RELIABILITY, EvaluateMetrics, read_evaluation_figures
from ptqflow.core.paths import PREDICTIONS
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.data.logits import NETWORKS, Logits, NetworkName
from ptqflow.evaluate.metrics import compare
from ptqflow.evaluate.predictions import load_predictions
from ptqflow.evaluate.writing import require_fidelity, write_evaluation

NAMES = ("ant", "bee", "cat")
LABELS = np.arange(30) % 3
Networks = dict[NetworkName, Logits]


def values(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(30, 3))


@pytest.fixture
def networks() -> Networks:
    return networks_of({name: values(seed) for seed, name in enumerate(NETWORKS)}, fp32_layers=2, calib_images=8)


def test_all_figures_lie_beside_the_predictions_and_the_headline_in_metrics(networks: Networks) -> None:
    figures = write_evaluation(networks, LABELS)

    logits = {str(name): network.values for name, network in networks.items()}
    assert figures == read_evaluation_figures() == compare(logits, dict.fromkeys(NETWORKS, BYTES), LABELS)
    assert figures.median_sqnr_db == pytest.approx(median_sqnr_db(logits["int8"], logits["fp32"]), abs=1e-4)
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics == figures.headline(fp32_layers=2, calib_images=8).model_dump()
    predictions = load_predictions(PREDICTIONS)
    assert (predictions.card.classes, predictions.card.test_sha256) == (NAMES, "0" * 64)
    assert np.array_equal(predictions.networks["int8"].predicted, logits["int8"].argmax(axis=1))


def test_of_a_thousand_classes_as_many_figures_are_compared_as_of_ten() -> None:
    labels = np.arange(2000) % 1000
    logits = np.random.default_rng(0).normal(size=(2000, 1000))
    write_evaluation(networks_of(dict.fromkeys(NETWORKS, logits), classes=tuple(map(str, range(1000)))), labels)
    assert set(json.loads(Path("metrics/evaluate.json").read_text())) <= set(EvaluateMetrics.model_fields)
    assert len(EvaluateMetrics.model_fields) == 12


def test_every_network_has_its_tables(networks: Networks) -> None:
    write_evaluation(networks, LABELS)
    tables = {file.name for file in Path("metrics/plots").iterdir()}
    assert tables == {
        "classes.csv",
        "reliability.csv",
        *(f"{table}_{name}.csv" for table in ("confusion", "per_class") for name in NETWORKS),
    }
    assert [row.name for row in CLASSES.read()] == list(NAMES)
    assert {row.network for row in RELIABILITY.read()} == set(NETWORKS)


def test_equal_logits_have_no_sqnr(networks: Networks) -> None:
    figures = write_evaluation(networks | {"int8": networks["fp32"]}, LABELS)
    assert (figures.sqnr_db, figures.median_sqnr_db, figures.p5_sqnr_db) == (None, None, None)
    assert "median_sqnr_db" not in json.loads(Path("metrics/evaluate.json").read_text())


def test_int8_that_is_too_far_from_fp32_is_refused_with_what_to_do() -> None:
    exact = values(0)
    logits = {"fp32": exact, "int8_uncalibrated": values(1), "int8": exact * 1.1}  # 20 dB

    near = networks_of(logits, min_sqnr_db=19.9)
    require_fidelity(near["int8"], near["fp32"])
    unlimited = networks_of({**logits, "int8": values(1)}, min_sqnr_db=None)
    require_fidelity(unlimited["int8"], unlimited["fp32"])
    far = networks_of(logits, min_sqnr_db=20.1)
    with pytest.raises(ModelError, match=r"20\.0 dB .* 30 test images, and convert\.min_sqnr_db is 20\.1; `dvc"):
        require_fidelity(far["int8"], far["fp32"])
