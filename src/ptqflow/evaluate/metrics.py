"""Figures of the networks from their logits."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ptqflow.core.figures import DIGITS, ClassRow, EvaluationFigures, NetworkFigures, ReliabilityBin
from ptqflow.evaluate.confidence import bin_by_confidence, mean_kl
from ptqflow.evaluate.significance import (
    Pairs,
    count_pairs,
    drop_interval,
    holm_by_class,
    paired_figures,
    pairs_by_class,
    six_significant,
)
from ptqflow.models.accuracy import evaluate, predictions
from ptqflow.models.fidelity import median_sqnr_db


def compare(logits: Mapping[str, Tensor], sizes: Mapping[str, int], labels: NDArray[np.int64]) -> EvaluationFigures:
    """Return figures and size of each network, and what INT8 costs against FP32.

    Args:
        logits: (N, classes) of `fp32`, `int8_uncalibrated` and `int8`.
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
        sqnr_db=sqnr_db(int8, fp32),
        median_sqnr_db=round(median, 4) if isfinite(median := median_sqnr_db(int8, fp32)) else None,
        kl=round(mean_kl(fp32.numpy(), int8.numpy()), DIGITS),
    )


def class_rows(logits: Mapping[str, Tensor], labels: NDArray[np.int64], classes: Sequence[str]) -> list[ClassRow]:
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


def reliability_rows(logits: Mapping[str, Tensor], labels: NDArray[np.int64]) -> list[ReliabilityBin]:
    """Return the reliability diagram of each network, bins of low confidence first."""
    return [
        row
        for name, values in logits.items()
        for row in bin_by_confidence(name, softmax(values.numpy(), axis=1).max(axis=1), predictions(values) == labels)
    ]


def agreement(logits: Tensor, reference: Tensor) -> float:
    """Return the share of images for which two networks predict the same class."""
    return round(float((predictions(logits) == predictions(reference)).mean()), DIGITS)


def sqnr_db(logits: Tensor, reference: Tensor) -> float | None:
    """Return the power of the reference over the power of the difference in decibels; None without a difference."""
    noise = (logits - reference).square().sum()
    return round(float(10 * torch.log10(reference.square().sum() / noise)), 4) if noise else None


def confusion_rows(logits: Tensor, labels: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cells of the confusion matrix as rows, without empty ones off the diagonal."""
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(labels, predictions(logits), labels=range(len(classes)))
    return [
        {"actual": classes[i], "predicted": classes[j], "images": int(matrix[i, j])}
        for i in range(len(classes))
        for j in range(len(classes))
        if matrix[i, j] or i == j
    ]


def per_class_rows(logits: Tensor, labels: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class that has images as fractions, and their number."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(
        labels, predictions(logits), labels=range(len(classes)), zero_division=0.0
    )
    return [
        {
            "class": name,
            "precision": round(float(precision), DIGITS),
            "recall": round(float(recall), DIGITS),
            "f1": round(float(f1), DIGITS),
            "images": int(images),
        }
        for name, precision, recall, f1, images in zip(classes, *figures, strict=True)
        if images
    ]
