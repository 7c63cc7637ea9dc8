"""A bar on a terminal, and nothing in a log."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
PASS = """
import sys, time
from ptqflow.core.progress import print_beside_bars, progress_bar, track
for i in track(range(3), 3, "pass", "image"):
    time.sleep(0.4)
    print_beside_bars(f"line {i}")
with progress_bar(10, "counted", "batch", done=4) as bar:
    bar.update(2)
    time.sleep(1.1)
    bar.set_description("renamed")
    bar.update(4)
print("tqdm" in sys.modules)
"""


def run(code: str = PASS, stderr: int = subprocess.PIPE, **environment: str) -> tuple[str, str]:
    """Return what a fresh process writes to stdout, and to stderr if that is no terminal."""
    variables = os.environ | {"PYTHONPATH": str(SRC)} | environment
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=variables, text=True, check=True)
    return done.stdout, done.stderr


def run_on_terminal(**environment: str) -> tuple[str, str]:
    """Return what it writes to stdout, and to the terminal that is its stderr."""
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 80))  # of none, a bar has no room
    output, _ = run(stderr=stderr, **environment)
    os.close(stderr)
    shown = b""
    try:
        while block := os.read(terminal, 1 << 16):
            shown += block
    except OSError:  # on Linux, the end of a terminal that nobody writes to any more
        pass
    os.close(terminal)
    return output, shown.decode()


def test_in_a_log_nothing_is_shown_and_the_library_is_not_imported() -> None:
    assert run() == ("line 0\nline 1\nline 2\nFalse\n", "")


def test_on_a_terminal_a_bar_shows_what_is_left_and_leaves_nothing() -> None:
    output, shown = run_on_terminal()
    assert output == "line 0\nline 1\nline 2\nTrue\n"
    assert "pass:" in shown
    assert "2/3 [" in shown
    assert "image" in shown
    assert "renamed: 100%" in shown
    assert shown.split("\r")[-1].strip() == ""


def test_of_several_ranks_the_first_shows_the_bar() -> None:
    first, second = (run_on_terminal(TORCHELASTIC_RUN_ID="none", RANK=rank)[1] for rank in "01")
    assert "pass:" in first
    assert second == ""


@pytest.mark.parametrize("items", [[], [1, 2, 3]])
def test_the_items_are_those_of_the_pass(items: list[int]) -> None:
    from ptqflow.core.progress import track

    assert list(track(iter(items), len(items), "pass", "image")) == items
