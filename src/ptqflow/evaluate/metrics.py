"""Figures of the networks from their logits."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptqflow.core.figures import (
    DIGITS,
    ClassRow,
    ConfusionCell,
    EvaluationFigures,
    NetworkFigures,
    PerClassRow,
    ReliabilityBin,
    UnlabelledFigures,
)
from ptqflow.data.accuracy import evaluate, predictions
from ptqflow.data.fidelity import median_sqnr_db, sqnr_db, sqnr_db_quantile
from ptqflow.evaluate.confidence import bin_by_confidence, mean_kl
from ptqflow.evaluate.predictions import Prediction
from ptqflow.evaluate.significance import (
    Pairs,
    count_pairs,
    drop_interval,
    holm_by_class,
    paired_figures,
    pairs_by_class,
    six_significant,
)

LogitsOf = Mapping[str, NDArray[np.float32]]
"""(N, classes) of `fp32`, `int8_uncalibrated` and `int8`, for the test images in their order."""


def compare(logits: LogitsOf, sizes: Mapping[str, int], labels: NDArray[np.int64]) -> EvaluationFigures:
    """Return figures and size of each network, and what INT8 costs against FP32.

    Args:
        logits: of each network.
        sizes: bytes of each network's file.
        labels: (N,).
    """
    fp32, int8 = logits["fp32"], logits["int8"]
    pairs = count_pairs(predictions(fp32) == labels, predictions(int8) == labels)
    paired = paired_figures(pairs, agreement(int8, fp32))
    figures: dict[str, Any] = {
        name: NetworkFigures(**evaluate(values, labels).as_metrics(), size_mb=round(sizes[name] / 1e6, 3))
        for name, values in logits.items()
    }
    return EvaluationFigures(
        **figures,
        drop=paired.drop,
        agreement=paired.agreement,
        paired=paired.paired,
        sqnr_db=_decibels(sqnr_db(int8, fp32)),
        median_sqnr_db=_decibels(median_sqnr_db(int8, fp32)),
        p5_sqnr_db=_decibels(sqnr_db_quantile(int8, fp32, 0.05)),
        kl=round(mean_kl(fp32, int8), DIGITS),
    )


def compare_unlabelled(logits: LogitsOf, sizes: Mapping[str, int]) -> UnlabelledFigures:
    """Return how INT8 differs from FP32 on images without labels.

    Args:
        logits: of `fp32` and `int8`, and of `int8_uncalibrated` if there is one.
        sizes: bytes of each network's file.
    """
    fp32, int8, control = logits["fp32"], logits["int8"], logits.get("int8_uncalibrated")
    return UnlabelledFigures(
        images=len(fp32),
        agreement=agreement(int8, fp32),
        uncalibrated_agreement=None if control is None else agreement(control, fp32),
        sqnr_db=_decibels(sqnr_db(int8, fp32)),
        median_sqnr_db=_decibels(median_sqnr_db(int8, fp32)),
        p5_sqnr_db=_decibels(sqnr_db_quantile(int8, fp32, 0.05)),
        kl=round(mean_kl(fp32, int8), DIGITS),
        fp32_mb=round(sizes["fp32"] / 1e6, 3),
        int8_mb=round(sizes["int8"] / 1e6, 3),
    )


def _decibels(ratio: float) -> float | None:
    return round(ratio, 4) if isfinite(ratio) else None


def class_rows(logits: LogitsOf, labels: NDArray[np.int64], classes: Sequence[str]) -> list[ClassRow]:
    """Return what INT8 loses on each class that has images, in the order of the classes."""
    fp32_right, int8_right = (predictions(logits[name]) == labels for name in ("fp32", "int8"))
    by_class = pairs_by_class(labels, fp32_right, int8_right, classes)
    p_values = holm_by_class(by_class)
    return [_class_row(name, pairs, p_values[name]) for name, pairs in by_class.items() if pairs.images]


def _class_row(name: str, pairs: Pairs, p_holm: float) -> ClassRow:
    interval = drop_interval(pairs)
    return ClassRow(
        name=name,
        images=pairs.images,
        drop=round(pairs.drop, DIGITS),
        low=six_significant(interval.low),
        high=six_significant(interval.high),
        both_right=pairs.both_right,
        only_fp32_right=pairs.only_reference_right,
        only_int8_right=pairs.only_candidate_right,
        both_wrong=pairs.both_wrong,
        p_holm=six_significant(p_holm),
    )


def reliability_rows(networks: Mapping[str, Prediction], labels: NDArray[np.int64]) -> list[ReliabilityBin]:
    """Return the reliability diagram of each network, bins of low confidence first."""
    return [
        row
        for name, found in networks.items()
        for row in bin_by_confidence(name, found.confidence, found.predicted == labels)
    ]


def agreement(logits: ArrayLike, reference: ArrayLike) -> float:
    """Return the share of images for which two networks predict the same class."""
    return round(float((predictions(logits) == predictions(reference)).mean()), DIGITS)


def confusion_rows(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[ConfusionCell]:
    """Return the cells of the confusion matrix as rows, without empty ones off the diagonal."""
    matrix = _count_confusions(predicted, labels, len(classes))
    return [
        ConfusionCell(actual=classes[i], predicted=classes[j], images=int(matrix[i, j]))
        for i, j in np.argwhere((matrix > 0) | np.eye(len(classes), dtype=bool)).tolist()
    ]


def per_class_rows(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[PerClassRow]:
    """Return precision, recall and F1 of each class that has images as fractions, and their number.

    Precision is 0 for a class that is never predicted.
    """
    matrix = _count_confusions(predicted, labels, len(classes))
    right, found, images = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        PerClassRow(
            name=classes[i],
            precision=round(float(right[i] / max(found[i], 1)), DIGITS),
            recall=round(float(right[i] / images[i]), DIGITS),
            f1=round(float(2 * right[i] / (found[i] + images[i])), DIGITS),
            images=int(images[i]),
        )
        for i in np.flatnonzero(images).tolist()
    ]


def _count_confusions(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the number of images of each class (row) that are taken for each class (column)."""
    # By hand: scikit-learn computes the same, and takes a second to import.
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
