"""Run a function in several folders, each a clone in which the pipeline has run."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from ptqflow.core.errors import PtqflowError

A = TypeVar("A")
R = TypeVar("R")


def run_in_each(folders: Iterable[Path], measure: Callable[[A], R], arguments: A) -> Iterator[R]:
    """Yield what `measure` returns in each folder; where it fails, print why on stderr and continue.

    Each runs in a fresh process: the user's modules in different folders may have the same name.
    """
    for folder in folders:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                result = pool.submit(_run, folder, measure, arguments).result()
            except (PtqflowError, OSError, BrokenProcessPool) as error:
                print(f"{folder}: {describe_error(error)}", file=sys.stderr)
                continue
        yield result


def describe_error(error: BaseException) -> str:
    """Return an error on one line that fits in a cell of a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160].replace("|", "/")


def _run(folder: Path, measure: Callable[[A], R], arguments: A) -> R:
    with chdir(folder):
        return measure(arguments)
