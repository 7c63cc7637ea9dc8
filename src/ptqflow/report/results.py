"""What the earlier stages wrote, as far as the report shows it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ptqflow.core.artifacts import REMEDY
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import (
    BENCHMARK,
    CLASSES,
    EPOCHS,
    FILE_CHECKS,
    OBSERVED_RANGES,
    QUANTIZED_RANGES,
    RELIABILITY,
    SEARCH,
    SENSITIVITY,
    TRIALS,
    BenchmarkRow,
    ClassRow,
    EpochRow,
    Figures,
    FileCheck,
    ObservedRange,
    QuantizedRange,
    ReliabilityBin,
    SearchRow,
    SensitivityRow,
    TrialRow,
    UnlabelledFigures,
    read_evaluation_figures,
)
from ptqflow.core.paths import DATASET, EXPORT, FIGURES, PREDICTIONS
from ptqflow.data.dataset import DatasetCard, Split, open_dataset
from ptqflow.evaluate.predictions import Prediction, load_predictions
from ptqflow.runtime.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Results:
    """One run of the pipeline."""

    dataset: DatasetCard
    test: Split
    predictions: Mapping[str, Prediction]
    """Of fp32, int8_uncalibrated and int8."""
    epochs: list[EpochRow]
    observed: list[ObservedRange]
    quantized: list[QuantizedRange]
    tried: list[SearchRow]
    """Range methods and other settings that `convert` tried."""
    trials: list[TrialRow]
    """Empty without `convert.max_drop`."""
    evaluate: Figures
    classes: list[ClassRow]
    reliability: list[ReliabilityBin]
    sensitivity: list[SensitivityRow]
    """The modules that cost most first."""
    checks: list[FileCheck]
    """Of the exported files."""
    manifest: Manifest


def read_results(with_layers: bool = True) -> Results:
    """Read what lies below the working directory.

    Args:
        with_layers: whether `sensitivity` has run.

    Raises:
        ArtifactError: a file is missing, changed or of another version.
    """
    dataset = open_dataset(DATASET)
    manifest = read_manifest(EXPORT)
    predictions = load_predictions(PREDICTIONS)
    if predictions.card.test_sha256 != dataset.card.sha256["test"]:
        raise ArtifactError(f"{PREDICTIONS} holds predictions of other test images; run `dvc repro`")
    reliability, figures = RELIABILITY.read(), read_evaluation_figures()
    if isinstance(figures, UnlabelledFigures) == dataset.card.labelled:
        raise ArtifactError(f"{FIGURES} is of another data set; run `dvc repro`")
    if dataset.card.labelled and (missing := predictions.networks.keys() - {row.network for row in reliability}):
        raise ArtifactError(f"{RELIABILITY.path} has no row of the network {min(missing)}; {REMEDY}")
    trials = TRIALS.read()
    if trials and not any(trial.chosen for trial in trials):
        raise ArtifactError(f"{TRIALS.path} has no row that was chosen; {REMEDY}")
    return Results(
        dataset=dataset.card,
        test=dataset.test,
        predictions=predictions.networks,
        epochs=EPOCHS.read(),
        observed=OBSERVED_RANGES.read(),
        quantized=QUANTIZED_RANGES.read(),
        tried=SEARCH.read(),
        trials=trials,
        evaluate=figures,
        classes=CLASSES.read(),
        reliability=reliability,
        sensitivity=SENSITIVITY.read() if with_layers else [],
        checks=FILE_CHECKS.read(),
        manifest=manifest,
    )


def read_benchmark(manifest: Manifest) -> list[BenchmarkRow]:
    """Return the timings of this model. No stage reads them: they are no function of its dependencies."""
    if not BENCHMARK.path.exists():
        return []
    exported = {file.sha256 for file in manifest.files.values()}
    return [row for row in BENCHMARK.read() if row.model_sha256 in exported]
