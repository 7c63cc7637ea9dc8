"""What the networks predict: confusion, classes and the images whose prediction changed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ptqflow.core.figures import CLASSES, ClassRow
from ptqflow.evaluate.predictions import Prediction
from ptqflow.evaluate.significance import ALPHA
from ptqflow.evaluate.verdict import format_points, short_p
from ptqflow.report import charts
from ptqflow.report.components import BARS, Chart, Table, limited_table, listed, signed_points
from ptqflow.report.images import changed_images, matrix_uri
from ptqflow.report.results import Results

_READABLE_CLASSES = 12  # in a matrix with names and numbers; with more it is an image of one pixel a cell


def by_label(results: Results) -> dict[str, Any]:
    """Return the confusion matrices and the drop of each class, nothing where the images have no labels."""
    if not results.dataset.labelled:
        return {"confusion": [], "class_chart": None, "classes": None}
    return confusion(results) | classes(results)


def confusion(results: Results) -> dict[str, Any]:
    """Return the confusion matrices of FP32 and INT8 and their difference."""
    classes, labels = results.dataset.classes, results.test.known_labels
    fp32, int8 = (_count(labels, results.predictions[name], len(classes)) for name in ("fp32", "int8"))
    difference = int8 - fp32
    moved = int((results.predictions["fp32"].predicted != results.predictions["int8"].predicted).sum())
    large = len(classes) > _READABLE_CLASSES
    panels = [
        (title, f"{np.trace(matrix):,} of {len(labels):,} images are on the diagonal.", matrix)
        for title, matrix in (("FP32", fp32), ("INT8, calibrated", int8))
    ]
    if not difference.any():
        panels.append(("INT8 minus FP32", "The two matrices are equal.", difference))
    elif large:  # without a sign in each cell, one image of both could not be read in grey
        panels.append(("INT8 more often", f"Of the {moved:,} that changed: where to.", difference.clip(min=0)))
        panels.append(("INT8 less often", f"Of the {moved:,} that changed: where from.", -difference.clip(max=0)))
    else:
        text = f"{moved:,} changed. Blue and +: INT8 predicts it more often; orange and -: less often."
        panels.append(("INT8 minus FP32", text, difference))
    how = " A pixel a cell: rows are actual, columns predicted classes, in their order on the disk." if large else ""
    return {
        "confusion": [
            Chart(title, text + how, _matrix(matrix, classes, signed=matrix is difference))
            for title, text, matrix in panels
        ],
        "cells": _cells(fp32, int8, classes),
        "large": large,
    }


def _count(labels: NDArray[np.int64], network: Prediction, classes: int) -> NDArray[np.int64]:
    """Return the number of images of each class (row) that are predicted as each class (column)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, network.predicted), 1)
    return matrix


def _matrix(matrix: NDArray[np.int64], classes: Sequence[str], *, signed: bool) -> Markup:
    if len(classes) <= _READABLE_CLASSES:
        return charts.draw(charts.matrix(matrix, classes, signed=signed))
    return Markup('<img src="{}" alt="">').format(matrix_uri(matrix))


def _cells(fp32: NDArray[np.int64], int8: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """Return the cells that are not empty, those that changed most first, then the largest off the diagonal."""
    cells = np.argwhere((fp32 != 0) | (int8 != 0)).tolist()
    cells.sort(key=lambda cell: (-abs(int8[*cell] - fp32[*cell]), cell[0] == cell[1], -fp32[*cell]))
    rows = [
        [f"{classes[i]} as {classes[j]}", f"{fp32[i, j]}", f"{int8[i, j]}", _change(int8[i, j] - fp32[i, j])]
        for i, j in cells
    ]
    return limited_table(["actual as predicted", "FP32", "INT8", "difference"], rows, "metrics/plots/confusion_*.csv")


def _change(images: int) -> str:
    return f"{images:+d}" if images else "0"


def classes(results: Results) -> dict[str, Any]:
    """Return the drop of each class that has test images, and list those that have none."""
    present = sorted(results.classes, key=lambda row: -abs(row.drop))
    names = {row.name for row in present}
    absent = [[name, "0", *"-----"] for name in results.dataset.classes if name not in names]
    points = [
        {
            "class": row.name,
            **{name: 100 * figure for name, figure in (("drop", row.drop), ("low", row.low), ("high", row.high))},
            "sure": _is_significant(row),
        }
        for row in sorted(present[:BARS], key=lambda row: -row.drop)
    ]
    significant = [row.name for row in present if _is_significant(row)]
    description = (
        (f"Of {len(present)} classes, the {BARS} that changed most. " if len(present) > BARS else "")
        + "FP32 minus INT8, with 95 % intervals. "
        + (
            f"Significant after Holm's correction, a diamond: {listed(significant)}."
            if significant
            else "None is significant after Holm's correction."
        )
    )
    heads = ["class", "images", "drop, points", "95 % interval", "only FP32 right", "only INT8 right", "p (Holm)"]
    return {
        "class_chart": Chart("Drop of top-1", description, charts.draw(charts.drops(points))) if points else None,
        "classes": limited_table(heads, [*map(_class_row, present), *absent], str(CLASSES.path)),
    }


def _is_significant(row: ClassRow) -> bool:
    return row.p_holm < ALPHA


def _class_row(row: ClassRow) -> list[str]:
    return [
        row.name,
        f"{row.images:,}",
        signed_points(row.drop),
        _interval(row),
        f"{row.only_fp32_right:,}",
        f"{row.only_int8_right:,}",
        short_p(row.p_holm),
    ]


def _interval(row: ClassRow) -> str:
    """Return the interval of the drop; one of no image on which only one network is right has no meaning."""
    discordant = row.only_fp32_right + row.only_int8_right
    return f"{format_points(row.low)} to {format_points(row.high)}" if discordant else "-"


def changed(results: Results) -> dict[str, Any]:
    """Return the images whose prediction changed."""
    fp32, int8 = results.predictions["fp32"], results.predictions["int8"]
    count = int((fp32.predicted != int8.predicted).sum())
    shown = changed_images(results.test, results.manifest.classes, results.dataset.color, fp32, int8)
    if not count:
        return {"changes": "None: INT8 predicts the same class as FP32 for every test image.", "changed": []}
    text = (
        f"INT8 predicts another class than FP32 for {count:,} of {len(fp32.predicted):,} test images. Beside each "
        "prediction is its margin, the probability of the class minus that of the second; "
        + (f"shown are the {len(shown)} images with the largest " if count > len(shown) else "sorted by the ")
        + "sum of both margins."
    )
    return {"changes": text, "changed": shown}
