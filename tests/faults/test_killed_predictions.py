"""`ptqflow predict`, killed, or stopped for a while, at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT
from samples import png

pytestmark = pytest.mark.faults
COST = 10
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGSTOP)
IMAGES = 300


def contents(*folders: Path) -> dict[Path, bytes]:
    """Return the bytes of each file below."""
    return {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def start(export: Path, images: Path, output: Path, errors: Path) -> "subprocess.Popen[bytes]":
    """Start predictions for a folder."""
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "ptqflow.cli", "predict", export, images],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


def test_killed_predictions(
    random_: random.Random, record_property: Callable[[str, object], None], export: Path, tmp_path: Path
) -> None:
    images, output, errors = tmp_path / "images", tmp_path / "output", tmp_path / "errors"
    images.mkdir()
    for number in range(IMAGES):
        (images / f"{number:03}.png").write_bytes(png(number))
    before, name = contents(export, images), random_.choice(SIGNALS)

    with start(export, images, output, errors) as process:
        if name == signal.SIGINT:  # before that, Python itself answers with a traceback
            while process.poll() is None and "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
                time.sleep(0.01)
        time.sleep(random_.uniform(0, 2))
        process.send_signal(name)
        if name == signal.SIGSTOP:
            time.sleep(random_.uniform(0, 2))
            process.send_signal(signal.SIGCONT)
        status = process.wait(60)
    printed = output.read_bytes()

    assert errors.read_bytes() == b"", name.name
    assert status in (0, -name), "it ends by the signal, without a word"
    assert contents(export, images) == before
    with start(export, images, output, errors) as process:
        assert process.wait(60) == 0
    whole = output.read_bytes()
    assert whole.count(b"\n") == IMAGES
    assert whole.startswith(printed) if status else whole == printed
    record_property("outcome", f"ended by it, {'some' if printed else 'no'} lines printed" if status else "ended well")
