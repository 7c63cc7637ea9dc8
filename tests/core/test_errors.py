"""What errors say about files and processes, by real ones."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptqflow.core import errors
from ptqflow.core.errors import PtqflowError, describe_exit, describe_failure, describe_os_error


def test_every_error_of_the_package_can_be_caught_as_one() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(own) > 5
    assert all(issubclass(error, PtqflowError) or issubclass(error, Warning) for error in own)


def test_an_os_error_names_its_file() -> None:
    with pytest.raises(OSError, match="nowhere") as caught:
        Path("nowhere").read_bytes()
    assert describe_os_error(caught.value) == "No such file or directory: nowhere"
    assert describe_os_error(OSError("the stream is cut")) == "the stream is cut"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", "ended with status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("os.abort()", "was ended by SIGABRT"),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGRTMIN + 1)",
            "was ended by signal 35",
            marks=pytest.mark.skipif(getattr(signal, "SIGRTMIN", 0) != 34, reason="of Linux with glibc"),
        ),
    ],
)
def test_the_end_of_a_process_is_its_status_or_its_signal(body: str, words: str) -> None:
    ended = subprocess.run([sys.executable, "-c", f"import os, signal, sys\n{body}"], check=False)
    assert describe_exit(ended.returncode) == words


@pytest.mark.parametrize(
    ("status", "stderr", "words"),
    [
        (1, "a warning\nexport: the file\n", "export: the file"),
        (1, "Traceback:\n  File x\n    raise\nValueError: a\nb\n", "ValueError: a b"),
        (2, "", "its process ended with status 2"),
        (0, "a warning", "its process ended with status 0 (a warning)"),
        (-9, "", "its process was ended by SIGKILL"),
        (-6, "terminate called\n", "its process was ended by SIGABRT (terminate called)"),
    ],
)
def test_a_failure_is_the_last_message_or_the_signal(status: int, stderr: str, words: str) -> None:
    assert describe_failure(status, stderr) == words
