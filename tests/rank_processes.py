"""Training in several real processes, as a user would start them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

TESTS = Path(__file__).parent


SCRIPT = str(TESTS / "ranked.py")


def start(ranks: int, weights: str, *changes: str, **environment: str) -> "subprocess.Popen[str]":
    path = f"{TESTS.parent / 'src'}:{TESTS}"
    return subprocess.Popen(
        [sys.executable, SCRIPT, str(ranks), weights, *changes],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def train(ranks: int, *changes: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    process = start(ranks, f"{ranks}", *changes)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("epoch 1: ") == 1, "one rank prints"
    return load_file(f"{ranks}"), json.loads(Path(f"{ranks}.json").read_text())


def kill_one_of_two_and_resume(victim: int, *recipe: str) -> None:
    """Require that both end, with one line, and that the next training ends with the bits of an uninterrupted one."""
    process = start(2, "weights", *recipe)
    wait_for_epoch(process)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[victim], signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)

    assert time.monotonic() - began < 30
    wait_until_gone(ranks, 5)
    assert process.returncode == 1
    assert errors == f"train: rank {victim} was ended by SIGKILL, and the others with it; run `dvc repro` again\n"
    process = start(2, "resumed", *recipe)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.startswith("resuming after epoch ")
    resumed, rows = load_file("resumed"), json.loads(Path("resumed.json").read_text())
    shutil.rmtree("checkpoints")
    whole, whole_rows = train(2, *recipe)
    assert rows == whole_rows
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def ranks_of(agent: int) -> list[int]:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(pid) for pid in children if SCRIPT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for_epoch(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch 1: ")


def wait_until_gone(pids: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "a rank is still there"
        time.sleep(0.05)
