"""The report: what the stages found, on one page that loads nothing and runs no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ptqflow.report import charts
from ptqflow.report.images import changed_images, matrix_uri
from ptqflow.report.machine import cpu_model, versions
from ptqflow.report.predictions import Predictions
from ptqflow.report.results import Results
from ptqflow.report.verdict import ALPHA, count_images, format_p, verdict

NETWORKS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}
_READABLE_CLASSES = 20  # in a matrix with names and numbers; with more it is an image of one pixel a cell
_BARS = 40  # in a chart
_ROWS = 400  # in a table

_HEADS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "loss": "loss",
    "ece": "ECE",
    "confidence": "confidence",
    "size_mb": "MB",
}
_PERCENT = {"top1", "top5"}


@dataclass(frozen=True)
class Table:
    """Rows of text, the first cell of each its head."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False
    """Whether the cells hold words, not figures."""


@dataclass(frozen=True)
class Chart:
    """A drawing with what it shows in words; its figures are in a table beside it."""

    title: str
    description: str
    drawing: Markup


def make_page(results: Results) -> str:
    """Return the report as HTML.

    Everything that did not come from a drawing is escaped, so that a class may have any name.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"{results.manifest.architecture} on {results.dataset.name}: FP32 and INT8",
        verdict=verdict(results.evaluate),
        **_networks(results.evaluate),
        **_run(results),
        **_training(results.epochs),
        **_confusion(results),
        **_classes(results.evaluate),
        **_layers(results),
        **_changed(results),
        **_size_and_speed(results),
    )


def _networks(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in _HEADS if any(key in evaluate[name] for name in NETWORKS)]
    rows = [[title, *(_cell(evaluate[name], key) for key in keys)] for name, title in NETWORKS.items()]
    drop, paired = evaluate["drop"], evaluate["paired"]
    sentence = (
        f"The drop of top-1 is {_signed(100 * drop['top1'], 2)} points (95 % interval {100 * drop['low']:.2f} to "
        f"{100 * drop['high']:.2f}). INT8 predicts what FP32 predicts for {100 * evaluate['agreement']:.2f} % of the "
        f"images; the mean divergence KL(FP32 ‖ INT8) is {evaluate['kl']:.3g} nats"
    )
    ratio = (
        f", the signal of its logits is {evaluate['sqnr_db']:.1f} dB above their noise" if "sqnr_db" in evaluate else ""
    )
    return {
        "networks": Table(["", *(_HEADS[key] for key in keys)], rows),
        "drop": f"{sentence}{ratio}.",
        "paired": Table(
            [f"{count_images(evaluate):,} test images", "INT8 right", "INT8 wrong"],
            [
                ["FP32 right", f"{paired['both_right']:,}", f"{paired['only_fp32_right']:,}"],
                ["FP32 wrong", f"{paired['only_int8_right']:,}", f"{paired['both_wrong']:,}"],
            ],
            note=f"Exact McNemar test of the two counts off the diagonal: {format_p(paired['p'])}.",
        ),
    }


def _cell(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return "-"
    return f"{100 * figures[key]:.2f}" if key in _PERCENT else f"{figures[key]:.{2 if key == 'size_mb' else 4}f}"


def _run(results: Results) -> dict[str, Any]:
    dataset, manifest, int8 = results.dataset, results.manifest, results.int8
    sizes = ", ".join(f"{count:,} {split}" for split, count in dataset.sizes.items())
    skipped = f", {dataset.skipped:,} unreadable files left out" if dataset.skipped else ""
    side = dataset.image_size
    run = {
        "Data": f"{dataset.name}: {dataset.source}",
        "Images": f"{sizes}; {len(dataset.classes)} classes, {side} by {side} pixels{skipped}",
        "Model": f"{manifest.architecture}, stem {manifest.stem}",
        "Calibration": f"{manifest.calibration.images:,} training images",
        "Engine": manifest.engine,
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "CPU": cpu_model(),
    }
    params = [[key, str(value)] for section, keys in manifest.params.items() for key, value in _flat(section, keys)]
    hashes = [
        *(["data, " + split, sha256] for split, sha256 in manifest.dataset_sha256.items()),
        ["calibration images, their order", manifest.calibration.indices_sha256],
        ["FP32 weights", int8["model"]["weights_sha256"]],
        ["INT8 state", int8["state_sha256"]],
        *([f"export, {name}", file.sha256] for name, file in manifest.files.items()),
        ["code that made the export", manifest.code_sha256],
    ]
    return {
        "run": run,
        "params": Table(["key", "value"], params, words=True),
        "hashes": Table(["of", "SHA-256"], hashes, words=True),
    }


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _flat(f"{prefix}.{key}", inner)]


def _training(epochs: list[dict[str, float]]) -> dict[str, Any]:
    last = epochs[-1]
    if last["epoch"] == 0:
        return {
            "training": [],
            "epochs": None,
            "untrained": f"None: the given weights as they are. Their top-1 on val is {100 * last['val_top1']:.2f} %.",
        }
    columns = {
        "train_loss": "loss, train",
        "val_loss": "loss, val",
        "train_top1": "top-1, train",
        "val_top1": "top-1, val",
    }
    loss, top1 = ({f"train_{figure}": "train", f"val_{figure}": "val"} for figure in ("loss", "top1"))
    rows = [[f"{row['epoch']:.0f}", *(f"{row[key]:.4f}" if key in row else "-" for key in columns)] for row in epochs]
    best = max(epochs, key=lambda row: row["val_top1"])
    return {
        "training": [
            Chart(
                "Loss",
                f"Cross-entropy in nats over {len(epochs)} epochs; on val it ends at {last['val_loss']:.3f}.",
                charts.draw(charts.curves(epochs, loss, 1, "cross-entropy")),
            ),
            Chart(
                "Top-1",
                f"Top-1 on val ends at {100 * last['val_top1']:.2f} %; its best, {100 * best['val_top1']:.2f} %, "
                f"is after epoch {best['epoch']:.0f}.",
                charts.draw(charts.curves(epochs, top1, 100, "top-1 %")),
            ),
        ],
        "epochs": _table(["epoch", *columns.values()], rows, "metrics/plots/train.csv"),
        "untrained": "",
    }


def _confusion(results: Results) -> dict[str, Any]:
    classes, labels = results.dataset.classes, results.test.labels
    fp32, int8 = (_count(labels, results.predictions[name], len(classes)) for name in ("fp32", "int8"))
    difference = int8 - fp32
    moved = int((results.predictions["fp32"].predicted != results.predictions["int8"].predicted).sum())
    large = len(classes) > _READABLE_CLASSES
    how = " A pixel a cell: rows are actual, columns predicted classes, in their order on the disk." if large else ""
    diagonal = f"{{:,}} of {len(labels):,} images are on the diagonal.{how}"
    change = "Nothing: the two matrices are equal."
    if difference.any():
        more, less = ("blue", "orange") if large else ("blue and +", "orange and -")
        change = f"{moved:,} changed. {more.capitalize()}: INT8 predicts it more often; {less}: less often.{how}"
    panels = (
        ("FP32", fp32, diagonal.format(np.trace(fp32))),
        ("INT8, calibrated", int8, diagonal.format(np.trace(int8))),
        ("INT8 minus FP32", difference, change),
    )
    return {
        "confusion": [
            Chart(title, text, _matrix(matrix, classes, signed=matrix is difference)) for title, matrix, text in panels
        ],
        "cells": _cells(fp32, int8, classes),
        "large": large,
    }


def _count(labels: NDArray[np.int64], network: Predictions, classes: int) -> NDArray[np.int64]:
    """Return how many images of each class (row) are taken for which (column)."""
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
        [f"{classes[i]} as {classes[j]}", f"{fp32[i, j]}", f"{int8[i, j]}", _signed(int8[i, j] - fp32[i, j], 0)]
        for i, j in cells
    ]
    return _table(["actual as predicted", "FP32", "INT8", "difference"], rows, "metrics/plots/confusion_*.csv")


def _classes(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    present = {name: figures for name, figures in evaluate["classes"].items() if figures["images"]}
    ordered = sorted(present, key=lambda name: -abs(present[name]["drop"]))
    points = [
        {
            "class": name,
            **{key: 100 * present[name][key] for key in ("drop", "low", "high")},
            "sure": present[name]["p_holm"] < ALPHA,
        }
        for name in sorted(ordered[:_BARS], key=lambda name: -present[name]["drop"])
    ]
    sure = [name for name in ordered if present[name]["p_holm"] < ALPHA]
    description = (
        (f"Of {len(ordered)} classes, the {_BARS} that changed most. " if len(ordered) > _BARS else "")
        + "FP32 minus INT8, with 95 % intervals. "
        + (f"Beyond noise after Holm's correction, a diamond: {_listed(sure)}." if sure else "None is beyond noise.")
    )
    rows = [_class_row(name, present[name]) for name in ordered]
    absent = [[name, "0", *"-----"] for name in evaluate["classes"] if name not in present]
    heads = ["class", "images", "drop, points", "95 % interval", "only FP32 right", "only INT8 right", "p (Holm)"]
    return {
        "class_chart": Chart("Drop of top-1", description, charts.draw(charts.drops(points))) if points else None,
        "classes": _table(heads, [*rows, *absent], "metrics/evaluate.json"),
    }


def _class_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{figures['images']:,}",
        _signed(100 * figures["drop"], 2),
        f"{_signed(100 * figures['low'], 2)} to {_signed(100 * figures['high'], 2)}",
        f"{figures['only_fp32_right']:,}",
        f"{figures['only_int8_right']:,}",
        format_p(figures["p_holm"]).removeprefix("p = ").removeprefix("p "),
    ]


def _layers(results: Results) -> dict[str, Any]:
    count = results.convert["layers"]
    alone = {name: figures["alone"] for name, figures in results.sensitivity.items()}
    measured = sorted(
        (name for name in alone if alone[name].get("sqnr_db") is not None), key=lambda name: alone[name]["sqnr_db"]
    )
    ranges = [
        {"tensor": name, "low": chosen["low"], "high": chosen["high"], **results.calib["tensors"].get(name, {})}
        for name, chosen in results.convert["tensors"].items()
    ]
    drawn = []
    if measured:
        bars = [{"module": name, "sqnr": alone[name]["sqnr_db"]} for name in measured[:_BARS]]
        drawn.append(
            Chart(
                "Sensitivity",
                "Signal above noise at the output of each module when it alone is quantized; a short bar is sensitive. "
                f"{measured[0]} is the most sensitive of {len(measured)}{_cut(len(measured))}.",
                charts.draw(charts.bars(bars, "module", "sqnr", "SQNR, dB")),
            )
        )
    if ranges:
        drawn.append(
            Chart(
                "Activation ranges",
                "Bar: the range that the INT8 codes cover. Line: from the least to the largest value that calibration "
                f"saw; what of it is outside the bar is clipped. {len(ranges)} tensors in execution order"
                f"{_cut(len(ranges))}.",
                charts.draw(charts.ranges(ranges[:_BARS])),
            )
        )
    return {
        "layers": f"{count['int8']} layers run on INT8, {count['fp32']} on FP32.",
        "layer_charts": drawn,
        "sensitivity": _sensitivity_table(results.sensitivity),
        "ranges": _ranges_table(results),
    }


def _sensitivity_table(sensitivity: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            _decimals(figures["alone"].get("sqnr_db"), 1),
            _decimals(figures["alone"].get("cosine"), 5),
            _signed(100 * figures["alone"]["drop"], 2),
            _decimals(figures["network"].get("sqnr_db"), 1),
            _decimals(figures["network"].get("cosine"), 5),
        ]
        for name, figures in sensitivity.items()
    ]
    heads = ["module", "alone: SQNR, dB", "cosine", "drop on val, points", "in the network: SQNR, dB", "cosine"]
    return _table(heads, rows, "metrics/sensitivity.json")


def _ranges_table(results: Results) -> Table:
    rows = []
    for name, chosen in results.convert["tensors"].items():
        seen = results.calib["tensors"].get(name, {})
        figures = (seen.get("min"), seen.get("max"), chosen["low"], chosen["high"])
        rows.append([name, *(_decimals(value, 4) for value in figures), f"{100 * chosen['clipped']:.4f}"])
    return _table(["tensor", "least", "largest", "low", "high", "clipped %"], rows, "metrics/convert.json")


def _changed(results: Results) -> dict[str, Any]:
    fp32, int8 = results.predictions["fp32"], results.predictions["int8"]
    count = int((fp32.predicted != int8.predicted).sum())
    shown = changed_images(results.test.images, results.test.labels, results.dataset.classes, fp32, int8)
    if not count:
        return {"changes": "None: INT8 predicts what FP32 predicts for every test image.", "changed": []}
    text = (
        f"{count:,} of {len(fp32.predicted):,} test images are taken for another class. "
        + (
            f"The {len(shown)} of which FP32 was surest"
            if count > len(shown)
            else "Those of which FP32 was surest come first"
        )
        + "; behind each prediction is by how much its probability leads that of the runner-up."
    )
    return {"changes": text, "changed": shown}


def _size_and_speed(results: Results) -> dict[str, Any]:
    rows = [
        [name, f"{file.bytes / 1e6:.2f}", _describe(results.export.get(name, {}))]
        for name, file in results.manifest.files.items()
    ]
    files = Table(["file", "MB", "checked against torch"], rows, words=True)
    if results.benchmark is None:
        return {"files": files, "speed": None, "machine": "", "speed_notes": []}
    machine, cells = results.benchmark["machine"], results.benchmark["cells"]
    speed = [
        [
            f"{runtime}, {batch.replace('_', ' ')}",
            f"{cell['fp32']['median_ms']:.2f}",
            f"{cell['int8']['median_ms']:.2f}",
            f"{cell['speedup']['median']:.2f} ({cell['speedup']['low']:.2f} to {cell['speedup']['high']:.2f})",
            f"{cell['int8']['images_per_s']:,.0f}",
        ]
        for runtime, batches in cells.items()
        for batch, cell in batches.items()
        if {"fp32", "int8", "speedup"} <= cell.keys()
    ]
    notes = [
        f"{runtime}, {batch.replace('_', ' ')}: {cell['note']}"
        for runtime, batches in cells.items()
        for batch, cell in batches.items()
        if "note" in cell
    ]
    return {
        "files": files,
        "speed": Table(["runtime", "FP32, ms", "INT8, ms", "INT8 is faster by", "INT8 images/s"], speed),
        "machine": f"Measured on {machine['cpu']} with {machine['threads']} threads; medians.",
        "speed_notes": notes,
    }


def _describe(figures: Mapping[str, Any]) -> str:
    """Return what a file's check found, in words."""
    parts = []
    if "bit_exact" in figures:
        parts.append("the same bits" if figures["bit_exact"] else "not the same bits")
    if "agreement" in figures:
        parts.append(f"{100 * figures['agreement']:.2f} % of predictions equal")
    if "top1" in figures:
        parts.append(f"top-1 {100 * figures['top1']:.2f} %")
    if "p" in figures:
        parts.append(format_p(figures["p"]))
    return ", ".join(parts) or "-"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], source: str) -> Table:
    """Return a table of the first rows, so that the page stays small."""
    note = f"The first {_ROWS} of {len(rows):,} rows; all are in {source}." if len(rows) > _ROWS else ""
    return Table(columns, rows[:_ROWS], note)


def _cut(count: int) -> str:
    return f", of which the first {_BARS} are shown" if count > _BARS else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign, none for zero."""
    text = f"{value:+.{digits}f}"
    return text if text.strip("+-0.") else text[1:]


def _decimals(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
