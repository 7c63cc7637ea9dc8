"""Timing processes for real: what they hold, how they fail, and that none outlives its parent."""

import subprocess
import sys
import time
from pathlib import Path

import miniature
import pytest
import torch
from tiny_onnx import write_onnx

from ptqflow.benchmark.timed_runtimes import Runtime, Task
from ptqflow.benchmark.worker import peak_memory
from ptqflow.benchmark.worker_process import Cell
from ptqflow.core.errors import BenchmarkError

START_A_CELL = """
import sys, time
from ptqflow.benchmark.worker_process import Cell
from ptqflow.benchmark.timed_runtimes import Task

cell = Cell("a", Task("onnxruntime", "network.onnx", 1, {shape}, 1))
cell.wait_until_imported()
print(cell.pid, flush=True)
time.sleep(60)
"""


def task(path: str, batch: int = 1, runtime: Runtime = "onnxruntime") -> Task:
    return Task(runtime, path, batch, miniature.INPUT_SHAPE, 1)


def test_a_process_of_onnx_runtime_holds_no_torch_and_reports_its_own_memory() -> None:
    write_onnx(Path("network.onnx"))
    with Cell("a", task("network.onnx")) as cell:
        cell.wait_until_imported()
        loaded = cell.load()
        assert "libtorch" not in Path(f"/proc/{cell.pid}/maps").read_text()
        assert loaded["form"] == "plain"
        assert 10 < loaded["memory_mb"] < peak_memory() / 1e6  # that of this process, which has imported torch
        assert all(duration > 0 for duration in cell.round(1.0))
        assert cell.profile().keys() == {"GlobalAveragePool", "Flatten"}


def test_a_network_never_sees_another_batch_than_its_own() -> None:
    write_onnx(Path("three.onnx"), batch=3)
    with Cell("three", task("three.onnx", batch=3)) as cell:
        cell.wait_until_imported()
        cell.load()
        cell.round(1.0)
    with Cell("four", task("three.onnx", batch=4)) as cell:
        cell.wait_until_imported()
        with pytest.raises(BenchmarkError, match=r"four: .*InvalidArgument.*Please fix"):
            cell.load()


def test_what_a_network_prints_is_not_taken_for_an_answer() -> None:
    class Talking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("hello")
            return x.mean((2, 3))

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Talking()).save("talking.pt")
    with Cell("a", task("talking.pt", runtime="torchscript")) as cell:
        cell.wait_until_imported()
        assert set(cell.versions) == {"torch", "torch_capability"}
        cell.load()
        assert len(cell.round(1.0)) >= 1


def test_a_file_that_cannot_be_loaded_is_one_line() -> None:
    Path("broken.onnx").write_bytes(b"no network")
    with Cell("onnxruntime, int8, batch 1", task("broken.onnx")) as cell:
        cell.wait_until_imported()
        with pytest.raises(BenchmarkError, match=r"onnxruntime, int8, batch 1: .*broken\.onnx") as caught:
            cell.load()
    assert "\n" not in str(caught.value)


def test_a_killed_process_is_reported() -> None:
    write_onnx(Path("network.onnx"))
    with Cell("a", task("network.onnx")) as cell:
        cell.wait_until_imported()
        subprocess.run(["kill", "-9", str(cell.pid)], check=True)
        with pytest.raises(BenchmarkError, match="a: its process was ended by SIGKILL"):
            cell.load()


def test_no_process_is_left_when_the_block_ends() -> None:
    write_onnx(Path("network.onnx"))
    with Cell("a", task("network.onnx")) as cell:
        cell.wait_until_imported()
    assert not Path(f"/proc/{cell.pid}").exists()


def test_a_killed_parent_takes_its_processes_with_it() -> None:
    script = START_A_CELL.format(shape=miniature.INPUT_SHAPE)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path(f"/proc/{int(parent.stdout.readline())}")
        assert child.exists()
        parent.kill()
        parent.wait()
        end = time.monotonic() + 30
        while child.exists() and (child / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            assert time.monotonic() < end, "the process outlives its parent"
            time.sleep(0.01)
