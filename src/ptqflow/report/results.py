"""What the earlier stages wrote, as far as the report tells it."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptqflow.core.errors import ArtifactError
from ptqflow.core.paths import DATASET, EXPORT, INT8, METRICS, PLOTS, PREDICTIONS
from ptqflow.data.dataset import DatasetCard, Split, open_dataset
from ptqflow.evaluate.predictions import Prediction, load_predictions
from ptqflow.runtime.manifest import INT8_ONNX, Manifest, read_manifest

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """One run of the pipeline."""

    dataset: DatasetCard
    test: Split
    predictions: Mapping[str, Prediction]
    """Of fp32, int8_uncalibrated and int8."""
    epochs: list[dict[str, float]]
    """Rows of train.csv without empty cells."""
    calib: Figures
    convert: Figures
    evaluate: Figures
    sensitivity: Figures
    export: Figures
    int8: Figures
    """The card of the INT8 model."""
    manifest: Manifest
    benchmark: Figures | None
    """None where nothing was measured, or another model."""


def read_results() -> Results:
    """Read what lies below the working directory.

    Raises:
        ArtifactError: a file is missing, changed or of another version.
    """
    dataset = open_dataset(DATASET)
    manifest = read_manifest(EXPORT)
    predictions = load_predictions(PREDICTIONS)
    if predictions.card.test_sha256 != dataset.card.sha256["test"]:
        raise ArtifactError(f"{PREDICTIONS} holds predictions of other test images; run `dvc repro`")
    return Results(
        dataset=dataset.card,
        test=dataset.test,
        predictions=predictions.networks,
        epochs=_read_rows(PLOTS / "train.csv"),
        **{stage: _read_json(_metrics(stage)) for stage in ("calib", "convert", "evaluate", "sensitivity", "export")},
        int8=_read_json(INT8 / "card.json"),
        manifest=manifest,
        benchmark=_read_benchmark(manifest),
    )


def _metrics(stage: str) -> Path:
    return METRICS / f"{stage}.json"


def _read_benchmark(manifest: Manifest) -> Figures | None:
    """Read the timings if they are of this model: they are no dependency, so that no stage waits for them."""
    file = _metrics("benchmark")
    if not file.exists():
        return None
    benchmark = _read_json(file)
    return benchmark if benchmark.get("model_sha256") == manifest.files[INT8_ONNX].sha256 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run `dvc repro`") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); run `dvc repro`") from None
    return value


def _read_rows(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run `dvc repro`") from None
