"""What the stages before the report write, by the stages' own writers, for networks that nobody trained."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from made_logits import BYTES, networks_of
from manifests import SHA256, make_manifest
from numpy.typing import NDArray
from samples import random_pixels, save_dataset

from ptqflow.benchmark.timing import Timing, speedup
from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.statistics import Statistics
from ptqflow.convert.accuracy_budget import Budget, Trial
from ptqflow.convert.range_figures import range_rows
from ptqflow.convert.ranges import Levels, Range, to_qparams
from ptqflow.convert.sensitivity import Fidelity, Sensitivity, sensitivity_rows
from ptqflow.core.figures import (
    BENCHMARK,
    EPOCHS,
    FILE_CHECKS,
    OBSERVED_RANGES,
    QUANTIZED_RANGES,
    SEARCH,
    SENSITIVITY,
    TRIALS,
    BenchmarkRow,
    EvaluationFigures,
    FileCheck,
    SearchRow,
)
from ptqflow.core.paths import DATASET, EXPORT
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.accuracy import Evaluation
from ptqflow.evaluate.writing import write_evaluation
from ptqflow.runtime.manifest import (
    FP32_ONNX,
    INT8_ONNX,
    INT8_TORCHSCRIPT,
    CalibrationCard,
    FileCard,
    LayerCard,
    write_manifest,
)
from ptqflow.train.loop import Epoch

CLASS_NAMES = ("ant", "bee", "cat", "dog")
CONFIDENCE = 0.7
CONV = {"conv1": 21.5, "layer1.0.conv2": 33.25, "fc": 48.0}


def write_run(
    *,
    classes: tuple[str, ...] = CLASS_NAMES,
    images: int = 200,
    size: int = 16,
    absent: int | None = None,
    changed: float = 0.1,
    predicted: Mapping[str, Sequence[int]] | None = None,
    epochs: int = 20,
    modules: dict[str, float | None] | None = None,
    name: str = "image_folder",
    budget: Budget | None = None,
    onnx: bool = True,
) -> None:
    """Write below the working directory what the report reads.

    Args:
        classes: names.
        images: of test.
        size: of the images in pixels.
        absent: a class without test images.
        changed: share of the predictions that INT8 changes.
        predicted: classes that each network predicts for the images with `CONFIDENCE`, all other classes being equally
            likely; random ones by default. Labels count up and start again after the last class.
        epochs: of training; 0 leaves one row that was not trained for.
        modules: SQNR of each with it alone quantized, None where the logits are equal.
        name: of the data set.
        budget: trials of `convert` for a max_drop of half a point.
        onnx: whether ONNX files were exported.
    """
    modules = CONV if modules is None else modules
    present = [i for i in range(len(classes)) if i != absent]
    labels = np.resize(np.array(present, dtype=np.int64), images)
    test_sha256 = _write_dataset(classes, labels, size, name)
    if predicted is None:
        logits = _random_logits(labels, len(classes), changed)
    else:
        logits = {network: _logits_with_confidence(values, len(classes)) for network, values in predicted.items()}
    evaluate = _write_evaluation(classes, labels, logits, test_sha256)
    _write_epochs(epochs)
    _write_modules(modules)
    TRIALS.write(budget.rows() if budget else [])
    SEARCH.write(
        [SearchRow(tensor="", method="mse", sqnr_db=30.0), SearchRow(tensor="", method="minmax", sqnr_db=28.0)]
    )
    _write_export(classes, size, name, modules, evaluate, onnx=onnx)


def write_benchmark(model_sha256: str = SHA256) -> None:
    """Write timings of two runtimes, in the second of which INT8 is slower."""

    def timing(ms: float) -> Timing:
        return Timing(load_s=0.1, first_ms=10.0, memory_mb=100.0, form="plain", rounds=((ms, ms), (ms, ms)))

    rows = []
    for runtime, fp32_ms, int8_ms, note in (
        ("onnxruntime", 8.0, 4.0, None),
        ("openvino", 4.0, 8.0, "the head stayed FP32, & more"),
    ):
        timings = {"fp32": timing(fp32_ms), "int8": timing(int8_ms)}
        measured = {
            f"{network}_{figure}": value
            for network, one in timings.items()
            for figure, value in one.as_metrics(1).items()
        }
        rows.append(
            BenchmarkRow(
                runtime=runtime,
                batch=1,
                **measured,
                **speedup(timings["int8"], timings["fp32"]).as_metrics(),
                fp32_size_mb=4.5,
                int8_size_mb=1.25,
                note=note,
                cpu="A <fast> CPU",
                cores=2,
                threads=1,
                instructions="avx2",
                versions=f"{runtime} 1.0",
                model_sha256=model_sha256,
            )
        )
    BENCHMARK.write(rows)


def _confuse(classes: NDArray[np.int64], count: int, share: float, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.where(random.random(len(classes)) < share, random.integers(0, count, len(classes)), classes)


def _write_dataset(classes: tuple[str, ...], labels: NDArray[np.int64], size: int, name: str) -> str:
    images = random_pixels(len(labels), size, size, 3), labels
    splits = dict.fromkeys(("train", "val", "test"), images)
    return save_dataset(DATASET, splits, name, classes=classes, origin="made up", skipped=1).sha256["test"]


def _random_logits(labels: NDArray[np.int64], classes: int, changed: float) -> dict[str, NDArray[np.float64]]:
    fp32 = _confuse(labels, classes, 0.2, seed=1)
    predicted = {
        "fp32": fp32,
        "int8_uncalibrated": _confuse(labels, classes, 0.6, seed=2),
        "int8": _confuse(fp32, classes, changed, seed=3),
    }
    return {network: _logits_above(values, classes, seed) for seed, (network, values) in enumerate(predicted.items())}


def _logits_above(predicted: NDArray[np.int64], classes: int, seed: int) -> NDArray[np.float64]:
    """Return logits (N, classes) whose largest is that of the predicted class."""
    logits = np.random.default_rng(seed).normal(size=(len(predicted), classes))
    logits[np.arange(len(predicted)), predicted] = logits.max(axis=1) + 1
    return logits


def _logits_with_confidence(predicted: Sequence[int], classes: int) -> NDArray[np.float64]:
    """Return logits (N, classes), 0 but for the predicted class, whose probability is `CONFIDENCE`."""
    logits = np.zeros((len(predicted), classes))
    logits[np.arange(len(predicted)), predicted] = math.log((classes - 1) * CONFIDENCE / (1 - CONFIDENCE))
    return logits


def _write_evaluation(
    classes: tuple[str, ...], labels: NDArray[np.int64], logits: dict[str, NDArray[np.float64]], test_sha256: str
) -> EvaluationFigures:
    return write_evaluation(networks_of(logits, classes=classes, test_sha256=test_sha256), labels)


def _write_epochs(count: int) -> None:
    epochs = [
        Epoch(i, 2 / i, 1 - 0.5 / i, Evaluation(top1=1 - 0.6 / i, top5=None, loss=2.5 / i)) for i in range(1, count + 1)
    ]
    untrained = Epoch(0, None, None, Evaluation(top1=0.75, top5=None, loss=0.5))
    EPOCHS.write(epoch.as_row() for epoch in epochs or [untrained])


def _write_modules(modules: dict[str, float | None]) -> None:
    observer = StatisticsObserver()
    observer(torch.tensor([-3.5, 0.0, 1.0, 70.0]))
    tensors = dict.fromkeys(["x", *modules], observer.statistics)
    OBSERVED_RANGES.write(Statistics({**tensors, "never": None}, np.zeros((1, 1), np.int64)).ranges())
    chosen = to_qparams(Range(-1.0, 4.5), Levels(255, symmetric=False))
    statistics = Statistics(tensors, np.zeros((1, 1), np.int64))
    QUANTIZED_RANGES.write(range_rows(statistics, dict.fromkeys(tensors, chosen)))
    found = {module: Sensitivity(Fidelity(sqnr, 0.999), 0.01, Fidelity(sqnr, 0.99)) for module, sqnr in modules.items()}
    SENSITIVITY.write(sensitivity_rows(found))


def file_check(file: str, runtime: str, **changes: Any) -> FileCheck:
    """A file that a runtime runs almost as torch does, with changes."""
    figures = {
        "images": 200,
        "bit_exact": False,
        "agreement": 0.9975,
        "fp32_agreement": 0.95,
        "median_sqnr_db": 31.5,
        "top1": 0.85,
        "lost": 2,
        "gained": 1,
    }
    return FileCheck.model_validate({"file": file, "runtime": runtime} | figures | changes)


def _write_export(
    classes: tuple[str, ...],
    size: int,
    name: str,
    modules: Iterable[str],
    evaluate: EvaluationFigures,
    *,
    onnx: bool,
) -> None:
    script = file_check(INT8_TORCHSCRIPT, "torchscript", bit_exact=True, agreement=1, lost=0, gained=0)
    in_onnxruntime = [file_check(file, "onnxruntime") for file in (FP32_ONNX, INT8_ONNX)]
    checks = [*in_onnxruntime, script] if onnx else [script]
    FILE_CHECKS.write(checks)
    manifest = make_manifest(
        {check.file: FileCard(sha256=SHA256, bytes=BYTES) for check in checks},
        architecture="resnet18",
        engine="onednn",
        classes=classes,
        preprocessing=Preprocessing.default((size, size)),
        params={"data": {"name": name, "limit": None}, "convert": {"activation": {"method": "mse"}, "max_drop": 0.5}},
        dataset_sha256=json.loads((DATASET / "card.json").read_text())["sha256"],
        calibration=CalibrationCard(images=320, indices_sha256=SHA256),
        layers=(
            *(
                LayerCard(name=module, operation="ConvReLU2d", precision="int8", scale=0.02, zero_point=0)
                for module in modules
            ),
            LayerCard(name="fc", operation="Linear", precision="fp32", scale=None, zero_point=None),
        ),
        metrics=evaluate,
    )
    write_manifest(EXPORT, manifest)


def budget_of(kept: str, *trials: tuple[int, int, str]) -> Budget:
    """Return a budget that chose `kept` after trials: modules kept FP32, images of 1,000 lost, and their names."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(", ")) if text else ()

    return Budget(
        names(kept), tuple(Trial(count, names(text), lost, 1000, seconds=1.5) for count, lost, text in trials)
    )
