"""The parent's side of a timing process."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

from ptqflow.benchmark import worker
from ptqflow.benchmark.timed_runtimes import Task
from ptqflow.core.errors import BenchmarkError, describe_failure


class Cell:
    """A fresh process with one network; it starts at once and imports its runtime meanwhile."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", worker.__name__, json.dumps(asdict(task))],
            env=os.environ | {"OMP_NUM_THREADS": str(task.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> "Cell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):  # a child of its own may hold the other ends open
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._errors.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def wait_until_imported(self) -> None:
        """Return once the runtime is imported.

        Raises:
            BenchmarkError: as of every request: the process has ended; the error repeats its last line.
        """
        self.versions = self._answer()["versions"]

    def load(self) -> dict[str, Any]:
        """Load the network and warm it up; return load_s, first_ms, memory_mb and form."""
        return self._ask("load")

    def round(self, milliseconds: float) -> list[float]:
        """Time runs that last so long in all; return the milliseconds of each."""
        durations: list[float] = self._ask(f"round {milliseconds}")["ms"]
        return durations

    def profile(self) -> dict[str, float]:
        """Return the seconds of each kind of operation in some more runs."""
        seconds: dict[str, float] = self._ask("profile")["seconds"]
        return seconds

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(request, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise BenchmarkError(self._end()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(self._end())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        return f"{self.name}: {describe_failure(status, self._errors.read())}"
