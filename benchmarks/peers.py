"""Our INT8 files beside those of NNCF and of ONNX Runtime's quantizer: fidelity, latency in turns, size.

All are made from the same FP32 network with the same calibration images, and scored on all test images. Run it in a
repository whose pipeline has run, from its root, in an environment with `.[pipeline,peers]`:
`PYTHONPATH=src python benchmarks/peers.py`.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from ptqflow.benchmark.timed_runtimes import Runtime, Task
from ptqflow.benchmark.timing import Speedup, Timing, speedup, time_in_turns
from ptqflow.benchmark.worker_process import Cell
from ptqflow.calib.statistics import load_statistics
from ptqflow.core.machine import describe_machine
from ptqflow.data.accuracy import evaluate
from ptqflow.data.dataset import Split, open_dataset
from ptqflow.data.fidelity import sqnr_db
from ptqflow.data.normalization import normalize
from ptqflow.data.preprocessing import to_input
from ptqflow.evaluate.metrics import agreement
from ptqflow.fx.artifact import STATE, load_int8
from ptqflow.models.fp32 import WEIGHTS, load_fp32
from ptqflow.models.logits import compute_logits
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, Manifest, read_manifest
from ptqflow.runtime.runtimes import open_file

FP32_DIR, INT8_DIR, EXPORT_DIR = Path("models/fp32"), Path("models/int8"), Path("models/export")
LOGITS_BATCH = 250


@dataclass(frozen=True)
class Model:
    """A file in a runtime."""

    runtime: Runtime
    path: Path
    engine: str | None = None
    seconds: float | None = None
    """It took to quantize, reading and writing included."""


@dataclass(frozen=True)
class Target:
    """What a speed must reach."""

    text: str
    model: str
    references: tuple[str, ...]
    """The fastest of them counts."""
    ratio: float


FP32 = "FP32, torch eager"
SCRIPT = "ptqflow, TorchScript"
OURS_ORT, OURS_OV = "ptqflow, ONNX Runtime", "ptqflow, OpenVINO"
NNCF = "NNCF, OpenVINO"
ORT = {
    method: f"ONNX Runtime's quantizer, {method.name}"
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Percentile)
}
TARGETS = (
    Target("in OpenVINO no slower than NNCF's model, within 5 %", OURS_OV, (NNCF,), 0.95),
    Target("in ONNX Runtime no slower than its own quantizer's model, within 5 %", OURS_ORT, tuple(ORT.values()), 0.95),
    Target(
        "TorchScript is the fastest that needs torch alone, within 5 %",
        SCRIPT,
        ("ptqflow, torch eager", "FP32, TorchScript", FP32),
        0.95,
    ),
    Target("INT8 (TorchScript) at least 4 times as fast as FP32 in torch eager", SCRIPT, (FP32,), 4.0),
    Target("INT8 (OpenVINO) at least 4 times as fast as FP32 in torch eager", OURS_OV, (FP32,), 4.0),
)


def main() -> None:
    """Print the tables of docs/speed.md: the models, and for each target whether it is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--processes", type=int, default=5, help="of each model at each batch size, one after another")
    parser.add_argument("--rounds", type=int, default=10, help="in each process")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed runs in each process")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    nncf.set_log_level(logging.ERROR)
    torch.set_num_threads(arguments.threads)

    manifest = read_manifest(EXPORT_DIR)
    dataset = open_dataset(Path("data/dataset"))
    card = load_fp32(FP32_DIR).card
    rows = load_statistics(Path("models/statistics"), card).rows.ravel()
    images = to_input(torch.from_numpy(dataset.train.images[rows]), card.normalization).numpy()
    with TemporaryDirectory() as scratch:
        models = make_models(manifest, images, Path(scratch))
        logits = {name: logits_of(model, dataset.test, manifest) for name, model in models.items()}
        timings = {batch: time_models(models, batch, manifest, arguments) for batch in arguments.batch_sizes}
        print(describe(manifest, images, dataset.test, arguments))
        print(table(models, logits, dataset.test, timings))
        print(verdicts(timings))


def make_models(manifest: Manifest, images: np.ndarray, folder: Path) -> dict[str, Model]:
    """Return our files and, made now in `folder`, those of the peers."""
    fp32 = EXPORT_DIR / FP32_ONNX
    script = folder / "fp32.torchscript.pt"
    network = load_fp32(FP32_DIR).module
    with torch.inference_mode():
        torch.jit.freeze(torch.jit.trace(network, torch.from_numpy(images[:2]))).save(script)
    models = {
        FP32: Model("torch_eager", WEIGHTS.path(FP32_DIR)),
        "FP32, TorchScript": Model("torchscript", script),
        "FP32, ONNX Runtime": Model("onnxruntime", fp32),
        "FP32, OpenVINO": Model("openvino", fp32),
        "ptqflow, torch eager": Model("torch_eager", STATE.path(INT8_DIR), manifest.engine),
        SCRIPT: Model("torchscript", EXPORT_DIR / INT8_TORCHSCRIPT, manifest.engine),
        OURS_ORT: Model("onnxruntime", EXPORT_DIR / INT8_ONNX, manifest.engine),
        OURS_OV: Model("openvino", EXPORT_DIR / INT8_ONNX, manifest.engine),
    }
    for method, name in ORT.items():
        models[name] = quantize_with_onnxruntime(fp32, images, method, folder / f"{method.name}.onnx")
    models[NNCF] = quantize_with_nncf(fp32, images, folder / "nncf.xml")
    return models


def quantize_with_onnxruntime(fp32: Path, images: np.ndarray, method: CalibrationMethod, path: Path) -> Model:
    """Prepared as its manual advises; QDQ, signed weights with a scale for each channel, unsigned activations.

    With signed activations, its default, x86 takes more than twice as long.
    """
    started = time.perf_counter()
    prepared = path.with_suffix(".prepared.onnx")
    with redirect_stdout(sys.stderr):
        quant_pre_process(fp32, prepared)
        quantize_static(
            prepared,
            path,
            Reader(images),
            QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
    return Model("onnxruntime", path, "none", time.perf_counter() - started)


def quantize_with_nncf(fp32: Path, images: np.ndarray, path: Path) -> Model:
    """Everything as by default, fast bias correction included.

    In batches: with images one by one it means over narrower ranges, and the SQNR is half as many decibels.
    """
    started = time.perf_counter()
    model = openvino.Core().read_model(fp32)
    batches = in_batches(images)
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return Model("openvino", path, "none", time.perf_counter() - started)


def in_batches(images: np.ndarray) -> list[np.ndarray]:
    return np.array_split(images, max(1, len(images) // 32))


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Calibration images as ONNX Runtime's quantizer reads them."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(in_batches(images))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def logits_of(model: Model, split: Split, manifest: Manifest) -> Tensor:
    """Run all images through a model in its runtime; return float64 (N, classes)."""
    if model.runtime == "torch_eager":
        network = load_fp32(FP32_DIR).module if model.engine is None else load_int8(INT8_DIR).module
        return compute_logits(network, split, manifest.input, LOGITS_BATCH, "test")
    run = open_file(model.path, model.runtime, manifest.engine)
    starts = range(0, len(split), LOGITS_BATCH)
    batches = (normalize(split.images[start : start + LOGITS_BATCH], manifest.input) for start in starts)
    return torch.from_numpy(np.concatenate([run(batch) for batch in batches])).double()


def time_models(
    models: Mapping[str, Model], batch: int, manifest: Manifest, arguments: argparse.Namespace
) -> dict[str, Timing]:
    """Time all in turns, each in a process of its own, and again in other processes.

    Where the memory of a process lies makes a difference of up to 15 % for a batch of 1, for as long as it lives.
    """
    timings: list[dict[str, Timing]] = []
    for _ in range(arguments.processes):
        with ExitStack() as stack:
            cells = {}
            for name, model in models.items():
                task = Task(
                    model.runtime, str(model.path), batch, manifest.input_shape, arguments.threads, model.engine
                )
                cells[name] = stack.enter_context(Cell(f"{name}, batch {batch}", task))
            timings.append(time_in_turns(cells, arguments.rounds, arguments.seconds))
    rounds = {name: tuple(chain.from_iterable(timing[name].rounds for timing in timings)) for name in models}
    return {name: replace(timings[0][name], rounds=rounds[name]) for name in models}


def describe(manifest: Manifest, images: np.ndarray, test: Split, arguments: argparse.Namespace) -> str:
    machine = describe_machine(arguments.threads)
    return (
        f"{manifest.architecture}, {len(images)} calibration images, {len(test)} test images of "
        f"{manifest.image_size}x{manifest.image_size}; {machine['cpu']} ({' '.join(machine['instructions'])}), "
        f"{arguments.threads} threads, {arguments.processes} processes, {arguments.rounds} rounds in each; "
        f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, "
        f"OpenVINO {openvino.__version__.split('-')[0]}, NNCF {nncf.__version__}\n"
    )


def table(
    models: Mapping[str, Model], logits: Mapping[str, Tensor], test: Split, timings: Mapping[int, Mapping[str, Timing]]
) -> str:
    """One row a model: figures against FP32 in torch; speeds with the 5th and 95th percentile of the rounds."""
    heads = [f"batch {batch} ms | times as fast" for batch in timings]
    lines = [
        f"| model | top-1 % | agreement % | SQNR dB | s to quantize | {' | '.join(heads)} | MB |",
        f"|---|{'---|' * (5 + 2 * len(heads))}",
    ]
    for name, model in models.items():
        ratio = sqnr_db(logits[name], logits[FP32])
        cells = [
            f"{100 * evaluate(logits[name], test.labels).top1:.2f}",
            f"{100 * agreement(logits[name], logits[FP32]):.2f}",
            "" if ratio is None or ratio > 100 else f"{ratio:.1f}",
            "" if model.seconds is None else f"{model.seconds:.1f}",
        ]
        for batch, of_batch in timings.items():
            gain = speedup(of_batch[name], of_batch[FP32])
            cells += [f"{of_batch[name].as_metrics(batch)['median_ms']:.2f}", with_spread(gain)]
        lines.append(f"| {name} | {' | '.join(cells)} | {size_mb(model):.1f} |")
    return "\n".join(lines) + "\n"


def verdicts(timings: Mapping[int, Mapping[str, Timing]]) -> str:
    """One row a target: whether it is reached at each batch size, against the fastest reference."""
    lines = [f"| to reach | {' | '.join(f'batch {batch}' for batch in timings)} |", f"|---|{'---|' * len(timings)}"]
    for target in TARGETS:
        cells = [verdict(target, of_batch) for of_batch in timings.values()]
        lines.append(f"| {target.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(target: Target, timings: Mapping[str, Timing]) -> str:
    gains: list[Speedup] = [speedup(timings[target.model], timings[name]) for name in target.references]
    least = min(gains, key=lambda gain: gain.median)
    return f"{'met' if least.median >= target.ratio else 'MISSED'}: {with_spread(least)} times as fast"


def with_spread(gain: Speedup) -> str:
    return f"{gain.median:.2f} ({gain.low:.2f} to {gain.high:.2f})"


def size_mb(model: Model) -> float:
    """MB (10^6 bytes); OpenVINO's own format has its weights in a file beside."""
    files: list[Any] = [model.path, *([model.path.with_suffix(".bin")] if model.path.suffix == ".xml" else [])]
    return float(sum(file.stat().st_size for file in files) / 1e6)


if __name__ == "__main__":
    main()
