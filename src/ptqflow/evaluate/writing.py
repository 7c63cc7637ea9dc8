"""What the stage `evaluate` writes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.core.artifacts import write_csv, write_metrics
from ptqflow.core.figures import CLASSES, RELIABILITY, EvaluationFigures
from ptqflow.core.paths import PLOTS, PREDICTIONS
from ptqflow.evaluate.metrics import class_rows, compare, confusion_rows, per_class_rows, reliability_rows
from ptqflow.evaluate.predictions import PredictionsCard, predict, save_predictions


def write_evaluation(
    logits: Mapping[str, Tensor],
    files: Mapping[str, Path],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    test_sha256: str,
) -> EvaluationFigures:
    """Write data/predictions, metrics/evaluate.json and the tables of classes and confidences; return all figures.

    Args:
        logits: float64 (N, classes) of `fp32`, `int8_uncalibrated` and `int8`.
        files: with the weights of each network.
        labels: (N,).
        classes: their names.
        test_sha256: hash of the test split.
    """
    figures = compare(logits, {name: file.stat().st_size for name, file in files.items()}, labels)
    predictions = {name: predict(values.numpy()) for name, values in logits.items()}
    card = PredictionsCard(classes=classes, test_sha256=test_sha256)
    save_predictions(PREDICTIONS, predictions, labels, card, figures)
    for name, values in logits.items():
        write_csv(PLOTS / f"confusion_{name}.csv", confusion_rows(values, labels, classes))
        write_csv(PLOTS / f"per_class_{name}.csv", per_class_rows(values, labels, classes))
    CLASSES.write(class_rows(logits, labels, classes))
    RELIABILITY.write(reliability_rows(logits, labels))
    write_metrics("evaluate", figures.headline())
    return figures
