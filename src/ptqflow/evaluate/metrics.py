"""The networks side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ptqflow.evaluate.confidence import expected_calibration_error, mean_kl
from ptqflow.evaluate.significance import Pairs, count_pairs, drop_interval, holm_by_class, mcnemar, pairs_by_class
from ptqflow.models.accuracy import DIGITS, evaluate, predictions


def compare(
    logits: Mapping[str, Tensor], sizes: Mapping[str, int], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Put the networks side by side: figures and size of each, and what INT8 costs against FP32.

    Args:
        logits: (N, classes) of `fp32`, `int8_uncalibrated` and `int8`.
        sizes: bytes of each network's file.
        labels: (N,).
        classes: their names.
    """
    fp32, int8 = logits["fp32"], logits["int8"]
    right = {name: predictions(values) == labels for name, values in logits.items()}
    pairs = count_pairs(right["fp32"], right["int8"])
    ratio = sqnr_db(int8, fp32)
    return {
        **{name: _figures(values, labels, sizes[name]) for name, values in logits.items()},
        "drop": _drop(pairs, "top1"),
        "agreement": agreement(int8, fp32),
        **({} if ratio is None else {"sqnr_db": ratio}),
        "kl": round(mean_kl(fp32.numpy(), int8.numpy()), DIGITS),
        "paired": {**_counts(pairs), "p": _p(mcnemar(pairs))},
        "classes": _classes(pairs_by_class(labels, right["fp32"], right["int8"], classes)),
    }


def _figures(logits: Tensor, labels: NDArray[np.int64], size: int) -> dict[str, float]:
    confidence = softmax(logits.numpy(), axis=1).max(axis=1)
    return {
        **evaluate(logits, labels).as_metrics(),
        "ece": round(expected_calibration_error(confidence, predictions(logits) == labels), DIGITS),
        "confidence": round(float(confidence.mean()), DIGITS),
        "size_mb": round(size / 1e6, 3),
    }


def _drop(pairs: Pairs, name: str) -> dict[str, float]:
    interval = drop_interval(pairs)
    return {
        name: round(pairs.drop, DIGITS),
        "low": round(interval.low, DIGITS),
        "high": round(interval.high, DIGITS),
    }


def _counts(pairs: Pairs) -> dict[str, int]:
    return {
        "both_right": pairs.both_right,
        "only_fp32_right": pairs.only_reference_right,
        "only_int8_right": pairs.only_candidate_right,
        "both_wrong": pairs.both_wrong,
    }


def _classes(pairs: Mapping[str, Pairs]) -> dict[str, dict[str, float]]:
    """Return the figures of each class; of one without an image, that it has none."""
    p_values = holm_by_class(pairs)
    return {
        name: {
            "images": of_class.images,
            **_drop(of_class, "drop"),
            **_counts(of_class),
            "p_holm": _p(p_values[name]),
        }
        if of_class.images
        else {"images": 0}
        for name, of_class in pairs.items()
    }


def _p(value: float) -> float:
    """Return a p-value with six significant digits: rounded to decimals, a small one would be zero."""
    return float(f"{value:.6g}")


def agreement(logits: Tensor, reference: Tensor) -> float:
    """Return the share of images for which two networks predict the same class."""
    return round(float((predictions(logits) == predictions(reference)).mean()), DIGITS)


def sqnr_db(logits: Tensor, reference: Tensor) -> float | None:
    """Return the ratio of the reference's power to that of the difference in decibels, None where there is none."""
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
