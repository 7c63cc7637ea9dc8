"""The networks side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from ptqflow.evaluation import DIGITS, evaluate, predictions
from ptqflow.params import Params


class EvaluateParams(Params):
    """How the test images are run through the networks."""

    batch_size: PositiveInt
    """Images at a time; the figures do not depend on it."""


def compare(logits: Mapping[str, Tensor], sizes: Mapping[str, int], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Put the networks side by side: figures and size of each, and what INT8 costs against FP32.

    Args:
        logits: (N, classes) of `fp32`, `int8_uncalibrated` and `int8`.
        sizes: bytes of each network's file.
        labels: (N,).
    """
    evaluations = {name: evaluate(values, labels) for name, values in logits.items()}
    figures: dict[str, Any] = {
        name: {**evaluation.as_metrics(), "size_mb": round(sizes[name] / 1e6, 3)}
        for name, evaluation in evaluations.items()
    }
    drop = evaluations["fp32"].top1 - evaluations["int8"].top1
    return figures | {
        "drop": {"top1": round(drop, DIGITS)},
        "agreement": agreement(logits["int8"], logits["fp32"]),
        **({"sqnr_db": ratio} if (ratio := sqnr_db(logits["int8"], logits["fp32"])) is not None else {}),
    }


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
    """Return precision, recall and F1 of each class as fractions, and its number of images."""
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
    ]
