"""How a stage script starts and ends: one line for a user's mistake, no orphan, no half-written file."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable

from ptqflow.errors import PtqflowError

_PR_SET_PDEATHSIG = 1


def run(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`; exit with status 1 and one line on stderr where the user can mend the cause.

    Stage scripts import torch inside `main`, so that what is set up here holds from the first milliseconds on and a
    misspelt key is reported before the slow imports.

    - Ctrl-C ends the process at once: outputs appear whole or not at all, so there is nothing to clean up.
    - When `dvc` is killed, the stage dies with it; otherwise the next `dvc repro` would run beside it (Linux only).
    - Threads of OpenMP that wait go to sleep soon, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT says otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(name)
    _let_waiting_threads_sleep()
    try:
        main()
    except PtqflowError as error:
        sys.exit(_line(name, str(error)))
    except OSError as error:
        sys.exit(_line(name, _describe(error)))


def die_with_parent(name: str) -> None:
    """Have the kernel kill this process when its parent ends (Linux only); exit where it has ended already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # No signal comes for a dvc that was killed before: then init or a subreaper is the parent, a process of another
    # group, while dvc, an experiment's and a queue's too, starts stages in its own.
    if "DVC_STAGE" in os.environ and os.getpgid(os.getppid()) != os.getpgrp():
        sys.exit(_line(name, "the dvc that started it is gone; run `dvc repro` again"))


def _let_waiting_threads_sleep() -> None:
    # A waiting thread of GNU's OpenMP, which torch has on Linux, spins for some 3 ms before it sleeps and so keeps a
    # core from other processes: two trainings side by side took 25 times as long as one. To spin for some 10 µs costs
    # next to nothing alone, while not to spin at all costs more. It is read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _line(name: str, message: str) -> str:
    return f"{name}: {' '.join(message.split())}"


def _describe(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    advice = "; free some space and run `dvc repro` again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror or error}{where}{advice}"
