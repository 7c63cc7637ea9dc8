import subprocess
import sys
from pathlib import Path

import miniature
import torch

from ptqflow.benchmark import fp32_script
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.models.fp32 import load_fp32


def write(directory: Path, file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", fp32_script.__name__, str(directory), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_computes_what_the_fp32_network_does_for_any_number_of_images(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "fp32.pt"
    assert write(models / "fp32", file).returncode == 0
    images = torch.rand(5, 3, miniature.SIZE, miniature.SIZE)
    with without_torch_warnings(), torch.inference_mode():
        found = torch.jit.load(file)(images)
        torch.testing.assert_close(found, load_fp32(models / "fp32").module(images))


def test_a_missing_network_is_one_line(tmp_path: Path) -> None:
    ended = write(tmp_path / "nothing", tmp_path / "fp32.pt")
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("benchmark: ")
    assert "card.json is missing" in line
