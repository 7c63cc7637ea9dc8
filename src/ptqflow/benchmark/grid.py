"""Time FP32 and INT8 in every runtime at every batch size."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from typing import Any

from ptqflow.benchmark import fp32_script
from ptqflow.benchmark.params import BenchmarkParams
from ptqflow.benchmark.slowdown import explain_loss
from ptqflow.benchmark.timed_runtimes import LIBRARIES, RUNTIMES, Runtime, Task, is_installed
from ptqflow.benchmark.timing import speedup, time_in_turns
from ptqflow.benchmark.worker_process import Cell
from ptqflow.core.errors import ArtifactError, BenchmarkError, describe_failure
from ptqflow.core.figures import BenchmarkMetrics, BenchmarkRow
from ptqflow.core.machine import describe_machine, usable_cores
from ptqflow.core.text_table import format_text_table
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, Manifest, check_file


@dataclass(frozen=True)
class Files:
    """The files of the two networks for one runtime."""

    fp32: Path
    int8: Path

    @property
    def sizes(self) -> dict[str, float]:
        """MB (10^6 bytes) of each."""
        return {"fp32_size_mb": self.fp32.stat().st_size / 1e6, "int8_size_mb": self.int8.stat().st_size / 1e6}


@dataclass(frozen=True)
class Benchmark:
    """What was timed."""

    rows: list[BenchmarkRow]
    left_out: dict[Runtime, str]
    """The runtimes that were not timed, and why."""

    def headline(self) -> BenchmarkMetrics:
        """Return the speed-up of each runtime, the geometric mean over the batch sizes."""
        speedups: dict[str, list[float]] = {}
        for row in self.rows:
            speedups.setdefault(row.runtime, []).append(row.speedup)
        return BenchmarkMetrics(speedup={name: round(geometric_mean(found), 3) for name, found in speedups.items()})


def benchmark(params: BenchmarkParams, eager: Files, export_dir: Path, manifest: Manifest) -> Benchmark:
    """Time FP32 and INT8 in every runtime that is installed.

    Args:
        params: the section `benchmark`.
        eager: the weights in the directories of `train` and `convert`.
        export_dir: the exported model.
        manifest: of `export_dir`.

    Raises:
        ArtifactError: a file is missing or not the one that was exported.
        BenchmarkError: a network could not be timed, or there are fewer cores than threads.
    """
    threads = pinned_threads(params.threads)
    left_out = {runtime: reason for runtime in RUNTIMES if (reason := _reason_to_leave_out(runtime, manifest))}
    model = manifest.files[INT8_ONNX if INT8_ONNX in manifest.files else INT8_TORCHSCRIPT]
    machine = describe_machine(threads)
    machine["instructions"] = " ".join(machine["instructions"])
    with TemporaryDirectory() as scratch:
        files = {
            runtime: _files(runtime, eager, export_dir, manifest, Path(scratch))
            for runtime in RUNTIMES
            if runtime not in left_out
        }
        rows = [
            BenchmarkRow(
                runtime=runtime,
                batch=batch,
                **_time_pair(runtime, of_runtime, batch, threads, manifest, params),
                **machine,
                model_sha256=model.sha256,
            )
            for runtime, of_runtime in files.items()
            for batch in params.batch_sizes
        ]
    return Benchmark(rows, left_out)


def format_table(rows: Sequence[BenchmarkRow]) -> str:
    """Return latency and speed-up of every row, of which there is one or more, as text."""
    table = [("", "batch", "FP32 ms", "INT8 ms", "FP32 / INT8", "")]
    for row in rows:
        fp32, int8, speedup = (f"{value:.2f}" for value in (row.fp32_median_ms, row.int8_median_ms, row.speedup))
        interval = f"({row.speedup_low:.2f} to {row.speedup_high:.2f})"
        table.append((row.runtime, f"{row.batch}", fp32, int8, speedup, interval))
    title = f"{rows[0].cpu}, {rows[0].threads} threads, {rows[0].instructions}"
    notes = [f"{row.runtime}, batch {row.batch}: {row.note}" for row in rows if row.note]
    return "\n".join([title, format_text_table(table, "<>>>>"), *notes])


def _reason_to_leave_out(runtime: Runtime, manifest: Manifest) -> str | None:
    if not is_installed(runtime):
        return f"{LIBRARIES[runtime]} is not installed"
    if LIBRARIES[runtime] != "torch" and INT8_ONNX not in manifest.files:
        return f"{INT8_ONNX} was not exported"
    return None


def _files(runtime: Runtime, eager: Files, export_dir: Path, manifest: Manifest, scratch: Path) -> Files:
    if runtime == "torch_eager":
        for file in (eager.fp32, eager.int8):
            if not file.is_file():
                raise ArtifactError(f"{file} is missing: run `dvc repro`")
        return eager
    if runtime == "torchscript":
        fp32 = scratch / "fp32.torchscript.pt"
        _write_script(eager.fp32.parent, fp32)
        return Files(fp32, check_file(export_dir, manifest, INT8_TORCHSCRIPT))
    return Files(check_file(export_dir, manifest, FP32_ONNX), check_file(export_dir, manifest, INT8_ONNX))


def _write_script(fp32_dir: Path, file: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", fp32_script.__name__, str(fp32_dir), str(file)]
    ended = subprocess.run(command, text=True, capture_output=True, check=False)
    if ended.returncode:
        raise BenchmarkError(describe_failure(ended.returncode, ended.stderr))


def _time_pair(
    runtime: Runtime, files: Files, batch: int, threads: int, manifest: Manifest, params: BenchmarkParams
) -> dict[str, Any]:
    """Return the columns that are measured in one runtime at one batch size."""
    shape = manifest.input_shape
    tasks = {
        "fp32": Task(runtime, str(files.fp32), batch, shape, threads),
        "int8": Task(runtime, str(files.int8), batch, shape, threads, manifest.engine),
    }
    with ExitStack() as stack:
        live = {
            name: stack.enter_context(Cell(f"{runtime}, {name}, batch {batch}", task)) for name, task in tasks.items()
        }
        timings = time_in_turns(live, params.rounds, params.seconds)
        gain = speedup(timings["int8"], timings["fp32"])
        figures = {
            f"{name}_{figure}": value
            for name, timing in timings.items()
            for figure, value in timing.as_metrics(batch).items()
        }
        speedups = gain.as_metrics()
        is_slower = speedups["speedup"] < 1
        return {
            **figures,
            **files.sizes,
            **speedups,
            "note": explain_loss(manifest.layers, live["int8"].profile()) if is_slower else None,
            "versions": ", ".join(f"{name} {version}" for name, version in live["int8"].versions.items()),
        }


def pinned_threads(threads: int | None) -> int:
    """Return the number of threads of every runtime; None stands for all cores.

    Raises:
        BenchmarkError: there are more threads than cores, so that they would wait for each other.
    """
    cores = usable_cores()
    if threads is not None and threads > cores:
        raise BenchmarkError(
            f"benchmark.threads is {threads}, and there are {cores} cores; set it to null or at most that"
        )
    return threads or cores
