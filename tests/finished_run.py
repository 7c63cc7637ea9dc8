"""What the stages before the report write, for networks that nobody trained."""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from samples import random_pixels
from scipy.stats import binomtest

from ptqflow.core.artifacts import write_csv, write_json, write_metrics
from ptqflow.core.paths import DATASET, EXPORT, INT8, PREDICTIONS
from ptqflow.evaluate.predictions import Prediction, PredictionsCard, save_predictions
from ptqflow.fetch.splitting import Pool, Source
from ptqflow.fetch.writing import save_dataset
from ptqflow.runtime.manifest import CalibrationCard, FileCard, InputCard, LayerCard, Manifest, Needs, write_manifest

CLASSES = ("ant", "bee", "cat", "dog")
SHA256 = hashlib.sha256(b"").hexdigest()
CONV = {"conv1": 21.5, "layer1.0.conv2": 33.25, "fc": 48.0}


def write_run(
    *,
    classes: tuple[str, ...] = CLASSES,
    images: int = 200,
    size: int = 16,
    absent: int | None = None,
    changed: float = 0.1,
    epochs: int = 20,
    modules: dict[str, float | None] | None = None,
    name: str = "image_folder",
    budget: dict[str, object] | None = None,
) -> None:
    """Write below the working directory what the report reads.

    Args:
        classes: names.
        images: of test.
        size: of the images in pixels.
        absent: a class without test images.
        changed: share of the predictions that INT8 changes.
        epochs: of training; 0 leaves one row that was not trained for.
        modules: SQNR of each with it alone quantized, None where the logits are equal.
        name: of the data set.
        budget: what `convert` writes of a budget of half a point.
    """
    modules = CONV if modules is None else modules
    present = [i for i in range(len(classes)) if i != absent]
    labels = np.resize(np.array(present, dtype=np.int64), images)
    test_sha256 = _write_dataset(classes, labels, size, name)
    fp32 = _confuse(labels, len(classes), 0.2, seed=1)
    predicted = {
        "fp32": fp32,
        "int8_uncalibrated": _confuse(labels, len(classes), 0.6, seed=2),
        "int8": _confuse(fp32, len(classes), changed, seed=3),
    }
    _write_predictions(classes, labels, predicted, test_sha256)
    _write_metrics(classes, labels, predicted, modules, epochs, budget)
    _write_models(classes, size, name)


def write_benchmark(model_sha256: str = SHA256) -> None:
    """Write timings of two runtimes, one of which has no INT8 at one batch size."""
    times = {"median_ms": 8.0, "p95_ms": 9.5, "images_per_s": 125.0, "load_s": 0.1, "memory_mb": 100.0}
    speedup = {"median": 2.0, "low": 1.9, "high": 2.1}
    cell = {"fp32": times, "int8": times | {"median_ms": 4.0, "images_per_s": 250.0}, "speedup": speedup}
    write_metrics(
        "benchmark",
        {
            "machine": {"cpu": "A <fast> CPU", "cores": 2, "threads": 1, "instructions": ["avx2"], "torch": "2.13.0"},
            "model_sha256": model_sha256,
            "cells": {
                "onnxruntime": {"batch_1": cell, "batch_32": cell | {"note": "slower than torch"}},
                "openvino": {"batch_1": {"note": "not installed"}},
            },
            "files": {},
        },
    )


def _confuse(classes: NDArray[np.int64], count: int, share: float, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.where(random.random(len(classes)) < share, random.integers(0, count, len(classes)), classes)


def _write_dataset(classes: tuple[str, ...], labels: NDArray[np.int64], size: int, name: str) -> str:
    DATASET.mkdir(parents=True)
    pixels = random_pixels(len(labels), size, size, 3)
    pool = Pool(pixels=pixels, rows=np.arange(len(labels)), labels=labels)
    source = Source(origin="made up", classes=classes, train=pool, test=None, horizontal_flip=True, skipped=1)
    return save_dataset(DATASET, name, source, dict.fromkeys(("train", "val", "test"), pool)).sha256["test"]


def _write_predictions(
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    predicted: dict[str, NDArray[np.int64]],
    test_sha256: str,
) -> None:
    margins = np.random.default_rng(4).random((len(predicted), len(labels)), dtype=np.float32)
    predictions = {
        network: Prediction(values, margin, margin)
        for (network, values), margin in zip(predicted.items(), margins, strict=True)
    }
    save_predictions(PREDICTIONS, predictions, labels, PredictionsCard(classes=classes, test_sha256=test_sha256))


def _write_metrics(
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    predicted: dict[str, NDArray[np.int64]],
    modules: dict[str, float | None],
    epochs: int,
    budget: dict[str, object] | None,
) -> None:
    write_metrics("evaluate", evaluate_metrics(classes, labels, predicted))
    rows = [
        {"epoch": i, "train_loss": 2 / i, "train_top1": 1 - 0.5 / i, "val_loss": 2.5 / i, "val_top1": 1 - 0.6 / i}
        for i in range(1, epochs + 1)
    ]
    given = {"epoch": 0, "train_loss": None, "train_top1": None, "val_loss": 0.5, "val_top1": 0.75}
    write_csv(Path("metrics/plots/train.csv"), rows or [given])
    write_metrics("calib", {"tensors": {module: {"min": -3.5, "max": 70.0} for module in modules}})
    chosen = {"low": -1.0, "high": 4.5, "scale": 0.02, "zero_point": 47, "clipped": 0.000125}
    tensors = dict.fromkeys(["x", *modules], chosen)
    trail = {} if budget is None else {"budget": budget}
    write_metrics("convert", {"layers": {"int8": len(modules), "fp32": 1}, **trail, "tensors": tensors})
    sensitivity = {}
    for module, sqnr in modules.items():
        ratio = {} if sqnr is None else {"sqnr_db": sqnr}
        sensitivity[module] = {"alone": {**ratio, "cosine": 0.999, "drop": 0.01}, "network": {**ratio, "cosine": 0.99}}
    write_metrics("sensitivity", sensitivity)
    write_metrics(
        "export",
        {
            "int8.torchscript.pt": {"bit_exact": True, "size_mb": 1.0},
            "int8.onnx": {"agreement": 0.9975, "top1": 0.85, "p": 1.0, "size_mb": 1.0, "runtime": "onnxruntime 1.32"},
        },
    )


def evaluate_metrics(
    classes: tuple[str, ...], labels: NDArray[np.int64], predicted: dict[str, NDArray[np.int64]]
) -> dict[str, object]:
    """Return metrics/evaluate.json; its intervals are made up."""
    right = {name: values == labels for name, values in predicted.items()}
    fp32, int8 = right["fp32"], right["int8"]
    metrics: dict[str, object] = {
        name: {"top1": round(float(hits.mean()), 6), "loss": 0.5, "ece": 0.02, "confidence": 0.8, "size_mb": 1.25}
        for name, hits in right.items()
    }
    drop = round(float(fp32.mean() - int8.mean()), 6)
    per_class = {}
    for i, name in enumerate(classes):
        rows = labels == i
        of_class = float(fp32[rows].mean() - int8[rows].mean()) if rows.any() else 0.0
        per_class[name] = {"images": int(rows.sum())} | (
            {
                "drop": round(of_class, 6),
                "low": round(of_class - 0.05, 6),
                "high": round(of_class + 0.05, 6),
                "both_right": int((fp32 & int8)[rows].sum()),
                "only_fp32_right": int((fp32 & ~int8)[rows].sum()),
                "only_int8_right": int((~fp32 & int8)[rows].sum()),
                "both_wrong": int((~fp32 & ~int8)[rows].sum()),
                "p_holm": 0.01 if i == 1 else 1.0,
            }
            if rows.any()
            else {}
        )
    return metrics | {
        "drop": {"top1": drop, "low": round(drop - 0.02, 6), "high": round(drop + 0.02, 6)},
        "agreement": round(float((predicted["fp32"] == predicted["int8"]).mean()), 6),
        "sqnr_db": 32.5,
        "kl": 0.00125,
        "paired": paired(int((fp32 & int8).sum()), int((fp32 & ~int8).sum()), int((~fp32 & int8).sum()), len(labels)),
        "classes": per_class,
    }


def paired(both: int, only_fp32: int, only_int8: int, images: int) -> dict[str, float]:
    """Return the counts of the paired test and its p by SciPy."""
    changed = only_fp32 + only_int8
    return {
        "both_right": both,
        "only_fp32_right": only_fp32,
        "only_int8_right": only_int8,
        "both_wrong": images - both - changed,
        "p": round(float(binomtest(only_fp32, changed).pvalue), 6) if changed else 1.0,
    }


def _write_models(classes: tuple[str, ...], size: int, name: str) -> None:
    INT8.mkdir(parents=True)
    write_json(INT8 / "card.json", {"state_sha256": SHA256, "model": {"weights_sha256": SHA256}})
    manifest = Manifest(
        ptqflow_version="0.1.0",
        architecture="resnet18",
        stem="standard",
        classes=classes,
        image_size=size,
        input=InputCard(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        engine="onednn",
        needs=Needs(vnni=True),
        torch_version="2.13.0",
        params={"data": {"name": name, "limit": None}, "convert": {"activation": {"method": "mse"}, "max_drop": 0.5}},
        dataset_sha256=json.loads((DATASET / "card.json").read_text())["sha256"],
        code_sha256=SHA256,
        model_code_sha256=None,
        weights_sha256=SHA256,
        calibration=CalibrationCard(images=320, indices_sha256=SHA256),
        layers=(LayerCard(name="conv1", operation="ConvReLU2d", precision="int8", scale=0.02, zero_point=0),),
        files={
            file: FileCard(sha256=SHA256, bytes=1_250_000) for file in ("fp32.onnx", "int8.onnx", "int8.torchscript.pt")
        },
        min_agreement=0.995,
        metrics={},
    )
    write_manifest(EXPORT, manifest)
