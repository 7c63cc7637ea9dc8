"""Our INT8 networks beside those of NNCF and of ONNX Runtime's quantizer: fidelity, latency in turns, size.

    PYTHONPATH=src python benchmarks/peers.py ../resnet ../vit

Each folder is a clone in which the pipeline has run for one network, by default the current one. There, all are made
from the same FP32 network with the same calibration images, and scored on the same test images against FP32 in torch.
It needs an environment with `.[pipeline,peers]`.
"""

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from fidelity import HEADS, Logits, evenly, fidelity_cells
from folders import describe_error, run_in_each
from quantizers import NNCF, ORT_MINMAX, ORT_PERCENTILE, PEERS, Files

import ptqflow
from ptqflow.benchmark.timed_runtimes import Runtime, Task
from ptqflow.benchmark.timing import Speedup, Timing, speedup, time_in_turns
from ptqflow.benchmark.worker_process import Cell
from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.statistics import load_statistics
from ptqflow.convert.conversion import convert_network
from ptqflow.convert.params import ConvertParams
from ptqflow.core.machine import describe_machine
from ptqflow.core.normalization import InputShape
from ptqflow.core.params import read_params
from ptqflow.core.paths import DATASET, EXPORT, FP32, STATISTICS
from ptqflow.core.preprocessing import in_pixels
from ptqflow.data.accuracy import evaluate
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import Dataset, Split, open_dataset
from ptqflow.data.normalization import normalize
from ptqflow.data.preprocessing import to_input
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.models.fp32 import WEIGHTS, Fp32Model, load_fp32
from ptqflow.models.logits import compute_logits
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, read_manifest
from ptqflow.runtime.runtimes import open_file

PASS = 256  # images, or fewer if they are large
REFERENCE = "FP32"
OURS: dict[str, tuple[Runtime, str]] = {
    "ptqflow, ONNX Runtime": ("onnxruntime", INT8_ONNX),
    "ptqflow, OpenVINO": ("openvino", INT8_ONNX),
    "ptqflow, TorchScript": ("torchscript", INT8_TORCHSCRIPT),
}


@dataclass(frozen=True)
class Row:
    """A network, and what is known of it."""

    name: str
    files: Mapping[Runtime, Path]
    """By the runtimes that run them; it is scored in the first."""
    engine: str | None = "none"
    """Of torch, for which INT8 was converted; None for FP32."""
    seconds: float | None = None
    """It took to quantize, reading and writing included."""
    logits: Logits | None = None
    """Of the test images."""
    failure: str = ""

    def timed(self, runtime: Runtime) -> str:
        """Return the name of its latency in a runtime."""
        return f"{self.name} in {runtime}"


Timings = Mapping[str, Timing]
"""By `Row.timed`."""


@dataclass(frozen=True)
class Target:
    """A latency to reach: that of the fastest of `ours` against the fastest of `references`, by `Row.timed`."""

    text: str
    ours: tuple[str, ...]
    references: tuple[str, ...]
    ratio: float


ANY_OF_OURS = tuple(f"{name} in {runtime}" for name, (runtime, _) in OURS.items())
IN_ORT, IN_OV, IN_TORCH = ((name,) for name in ANY_OF_OURS)
FP32_TORCH = (f"{REFERENCE} in torch_eager", f"{REFERENCE} in torchscript")
FP32_ANYWHERE = (*FP32_TORCH, f"{REFERENCE} in onnxruntime", f"{REFERENCE} in openvino")
ORTS_OWN = (f"{ORT_MINMAX} in onnxruntime", f"{ORT_PERCENTILE} in onnxruntime")
TARGETS = (
    Target("INT8 in its fastest runtime faster than FP32 in its fastest", ANY_OF_OURS, FP32_ANYWHERE, 1.0),
    Target("in OpenVINO no slower than NNCF's model, within 5 %", IN_OV, (f"{NNCF} in openvino",), 0.95),
    Target("in ONNX Runtime no slower than its own quantizer's model, within 5 %", IN_ORT, ORTS_OWN, 0.95),
    Target("TorchScript is the fastest that needs torch alone, within 5 %", IN_TORCH, FP32_TORCH, 0.95),
    Target("INT8 at least 4 times as fast as FP32 in torch eager", ANY_OF_OURS, FP32_TORCH[:1], 4.0),
)


def main() -> None:
    """Print for each network the tables of docs/speed.md, then the fidelity on all networks in one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER")
    parser.add_argument("--images", type=int, help="test images, evenly spaced; default: all")
    add_timing_arguments(parser, processes=5)
    arguments = parser.parse_args()
    fidelity = dict(run_in_each(arguments.folders, compare, arguments))
    print(fidelity_table(fidelity))


def add_timing_arguments(parser: argparse.ArgumentParser, processes: int) -> None:
    """Add the options of `time_rows`."""
    parser.add_argument("--no-speed", action="store_true", help="time nothing")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument(
        "--processes", type=int, default=processes, help="of each model at each batch size, one after another"
    )
    parser.add_argument("--rounds", type=int, default=10, help="in each process")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed runs in each process")
    parser.add_argument("--threads", type=int, default=2)


def compare(arguments: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """Print the tables of one network; return its name, and agreement and SQNR by the name of the row."""
    nncf.set_log_level(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    os.environ["PYTHONPATH"] = str(Path(ptqflow.__file__).parents[1])  # of the processes that are timed
    with TemporaryDirectory() as scratch:
        dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
        test = evenly(dataset.test, arguments.images)
        reference = compute_logits(fp32.module, test, fp32.card.normalization, PASS, "test").numpy()
        rows = [
            *our_rows(fp32, dataset, test, reference, Path(scratch)),
            *peers_rows(fp32, dataset, test, Path(scratch)),
        ]
        batches = [] if arguments.no_speed else arguments.batch_sizes
        timings = {batch: time_rows(rows, batch, fp32.card.input_shape, arguments) for batch in batches}
        print(describe(fp32, dataset, test, arguments))
        print(table(rows, reference, test, timings))
        print(verdicts(timings) if timings else "", flush=True)
        return fp32.card.name, {row.name: summarize(row, reference) for row in rows[1:]}


def our_rows(fp32: Fp32Model, dataset: Dataset, test: Split, reference: Logits, folder: Path) -> list[Row]:
    """Return FP32, and the INT8 files that the pipeline exported."""
    engine, onnx = read_manifest(EXPORT).engine, EXPORT / FP32_ONNX
    files: Files = {"torch_eager": WEIGHTS.path(FP32), "onnxruntime": onnx, "openvino": onnx}
    with suppress(RuntimeError), torch.inference_mode():  # of a network that torch cannot trace
        script = folder / "fp32.torchscript.pt"
        torch.jit.freeze(torch.jit.trace(fp32.module, torch.zeros(2, *fp32.card.input_shape))).save(script)
        files["torchscript"] = script
    rows = [Row(REFERENCE, files, engine=None, logits=reference)]
    rows += [score(Row(name, {runtime: EXPORT / file}, engine), test, fp32) for name, (runtime, file) in OURS.items()]
    started = time.perf_counter()
    quantize_with_ptqflow(fp32, dataset, folder / INT8_ONNX)
    rows[1] = replace(rows[1], seconds=time.perf_counter() - started)
    return rows


def quantize_with_ptqflow(fp32: Fp32Model, dataset: Dataset, path: Path) -> None:
    """Do again what the stages calib, convert and export do until int8.onnx is written."""
    card = fp32.card
    drawn = load_statistics(STATISTICS, card).rows
    batches = input_batches(dataset.train, drawn, card.normalization)
    seen = collect_statistics(observe(fp32.module, card.input_shape), batches, drawn)
    found = convert_network(fp32, read_params("convert", ConvertParams), seen, dataset, lambda _: None)
    path.write_bytes(to_onnx(build_qdq(found.quantized.converted, card.input_shape), card.input_shape, {}))


def peers_rows(fp32: Fp32Model, dataset: Dataset, test: Split, folder: Path) -> list[Row]:
    """Return what each peer makes, in `folder`, or why it fails."""
    drawn = load_statistics(STATISTICS, fp32.card).rows.ravel()
    images = to_input(torch.from_numpy(dataset.train.images[drawn]), fp32.card.normalization).numpy()
    rows = []
    for number, (name, quantize) in enumerate(PEERS.items()):
        print(f"{fp32.card.name}: {name}", file=sys.stderr)
        started = time.perf_counter()
        try:
            with redirect_stdout(sys.stderr):
                files = quantize(EXPORT / FP32_ONNX, images, folder / str(number))
        except Exception as error:  # of any kind
            rows.append(Row(name, {}, failure=describe_error(error)))
        else:
            rows.append(score(Row(name, files, seconds=time.perf_counter() - started), test, fp32))
    return rows


def score(row: Row, test: Split, fp32: Fp32Model) -> Row:
    """Add the logits, or why there are none; leave out further runtimes that do not run the file."""
    step, normalization = images_per_pass(fp32.card.preprocessing.size, PASS), fp32.card.normalization
    batches = [test[start : start + step].images for start in range(0, len(test), step)]
    files: dict[Runtime, Path] = {}
    logits = None
    for runtime, path in row.files.items():
        try:
            assert runtime != "torch_eager"
            run = open_file(path, runtime, row.engine or "none")
            if logits is None:
                logits = np.concatenate([run(normalize(images, normalization)) for images in batches])
            else:
                run(normalize(batches[0][:1], normalization))
        except Exception as error:  # each runtime raises its own
            if logits is None:
                return replace(row, files={}, failure=describe_error(error))
        else:
            files[runtime] = path
    assert logits is not None
    return replace(row, files=files, logits=logits)


def time_rows(rows: Sequence[Row], batch: int, shape: InputShape, arguments: argparse.Namespace) -> Timings:
    """Time all in turns, each in a process of its own, and again in other processes.

    Where the memory of a process lies makes a difference of up to 15 % for a batch of 1, for as long as it lives.
    """
    tasks = {
        row.timed(runtime): Task(runtime, str(path), batch, shape, arguments.threads, row.engine)
        for row in rows
        for runtime, path in row.files.items()
    }
    timings: list[Timings] = []
    for _ in range(arguments.processes):
        with ExitStack() as stack:
            cells = {name: stack.enter_context(Cell(f"{name}, batch {batch}", task)) for name, task in tasks.items()}
            timings.append(time_in_turns(cells, arguments.rounds, arguments.seconds))
    rounds = {name: tuple(chain.from_iterable(timing[name].rounds for timing in timings)) for name in tasks}
    return {name: replace(timings[0][name], rounds=rounds[name]) for name in tasks}


def describe(fp32: Fp32Model, dataset: Dataset, test: Split, arguments: argparse.Namespace) -> str:
    machine, drawn = describe_machine(arguments.threads), load_statistics(STATISTICS, fp32.card).rows.size
    timed = "" if arguments.no_speed else f", {arguments.processes} processes, {arguments.rounds} rounds in each"
    return (
        f"{fp32.card.name}, {drawn} calibration images, {len(test)} test images of "
        f"{in_pixels(fp32.card.preprocessing.size)}; {machine['cpu']} ({' '.join(machine['instructions'])}), "
        f"{arguments.threads} threads{timed}; torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, "
        f"OpenVINO {openvino.__version__.split('-')[0]}, NNCF {nncf.__version__}\n"
    )


def table(
    rows: Sequence[Row],
    reference: Logits,
    test: Split,
    timings: Mapping[int, Timings],
    base: Sequence[str] = FP32_ANYWHERE,
) -> str:
    """One row a network: figures against FP32 in torch; latency in its fastest runtime and against that of `base`."""
    heads = ["model", "s to quantize", "top-1 %", *HEADS, "MB"]
    heads += chain.from_iterable((f"batch {batch} ms", "times as fast") for batch in timings)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [row.name, "" if row.seconds is None else f"{row.seconds:.1f}"]
        if row.logits is None:
            cells += [f"failed: {row.failure}", *[""] * (len(heads) - 3)]
        else:
            cells += [
                f"{100 * evaluate(row.logits, test.known_labels).top1:.2f}",
                *fidelity_cells(row.logits, reference),
            ]
            cells += [f"{size_mb(next(iter(row.files.values()))):.1f}"]
            cells += chain.from_iterable(latency_cells(row, of_batch, base) for of_batch in timings.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def latency_cells(row: Row, timings: Timings, base: Sequence[str]) -> list[str]:
    """Return milliseconds of the fastest runtime and its name, and how many times as fast as `base` it is."""
    runtimes = {row.timed(runtime): runtime for runtime in row.files}
    name = fastest(runtimes, timings)
    gain = speedup(timings[name], timings[fastest(base, timings)])
    return [f"{median_ms(timings[name]):.2f} {runtimes[name]}", with_spread(gain)]


def fastest(names: Iterable[str], timings: Timings) -> str:
    """Return the name with the least median latency of those that were timed."""
    return min((name for name in names if name in timings), key=lambda name: median_ms(timings[name]))


def median_ms(timing: Timing) -> float:
    return statistics.median(chain.from_iterable(timing.rounds))


def verdicts(timings: Mapping[int, Timings]) -> str:
    """One row a target: whether it is reached at each batch size."""
    lines = [f"| to reach | {' | '.join(f'batch {batch}' for batch in timings)} |", f"|---|{'---|' * len(timings)}"]
    for target in TARGETS:
        cells = [verdict(target, of_batch) for of_batch in timings.values()]
        lines.append(f"| {target.text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def verdict(target: Target, timings: Timings) -> str:
    try:
        ours, reference = fastest(target.ours, timings), fastest(target.references, timings)
    except ValueError:  # none of them runs
        return ""
    gain = speedup(timings[ours], timings[reference])
    return f"{'met' if gain.median >= target.ratio else 'MISSED'}: {with_spread(gain)} times as fast"


def with_spread(gain: Speedup) -> str:
    return f"{gain.median:.2f} ({gain.low:.2f} to {gain.high:.2f})"


def size_mb(path: Path) -> float:
    """MB (10^6 bytes); OpenVINO's own format has its weights in a file beside."""
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    return sum(file.stat().st_size for file in files) / 1e6


def summarize(row: Row, reference: Logits) -> str:
    """Return agreement in % and the median SQNR in dB."""
    return "failed" if row.logits is None else ", ".join(fidelity_cells(row.logits, reference)[:2])


def fidelity_table(networks: Mapping[str, Mapping[str, str]]) -> str:
    """One row a network: agreement in % and median SQNR in dB of ours and of each peer."""
    names = [*OURS, *PEERS]
    lines = [f"| agreement %, median SQNR dB | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for network, cells in networks.items():
        lines.append(f"| {network} | {' | '.join(cells[name] for name in names)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
