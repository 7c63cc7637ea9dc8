"""How a stage script starts and ends: one line for a user's mistake, no orphan, no half-written file."""

import ctypes
import errno
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ptqflow.core.errors import PtqflowError, PtqflowWarning

LAUNCHER = "PTQFLOW_LAUNCHER"
"""Environment variable with the process that started a rank, where that is another process of the same stage."""

_PR_SET_PDEATHSIG = 1


def run(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`; exit with status 1 and one line on stderr where the user can mend the cause.

    Stage scripts import torch inside `main`, so that what is set up here holds from the first milliseconds on.

    - Ctrl-C ends the process at once: outputs appear whole or not at all, so there is nothing to clean up.
    - When `dvc` is killed, the stage dies with it; otherwise the next `dvc repro` would run beside it (Linux only).
    - A `PtqflowWarning` is one line on stderr.
    - Threads of OpenMP that wait go to sleep soon, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT says otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(name)
    _let_waiting_threads_sleep()
    _format_warnings(name)
    try:
        main()
    except PtqflowError as error:
        _end(name, str(error))
    except OSError as error:
        _end(name, _describe(error))
    except Exception:
        if not is_rank():
            raise
        _report(traceback.format_exc())


def _end(name: str, message: str) -> NoReturn:
    if is_rank():  # the launcher says it once for all ranks
        _report(message)
    sys.exit(_line(name, message))


def _report(message: str) -> NoReturn:
    """Leave for the agent why this rank ends."""
    failure = {"message": message, "timestamp": str(int(time.time()))}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(failure), encoding="utf-8")
    sys.exit(1)


def is_rank() -> bool:
    """Tell whether this process is one of several that torchrun, or its agent in `ptqflow.core.launch`, has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def die_with_parent(name: str) -> None:
    """Have the kernel kill this process when its parent ends (Linux only); exit where it has ended already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # No signal comes for a parent that was killed before: then init or a subreaper is the parent. For a dvc, that is a
    # process of another group, while dvc, an experiment's and a queue's too, starts stages in its own.
    if is_rank():
        is_orphan = os.environ.get(LAUNCHER) not in (None, str(os.getppid()))
    else:
        is_orphan = "DVC_STAGE" in os.environ and os.getpgid(os.getppid()) != os.getpgrp()
    if is_orphan:
        sys.exit(_line(name, "the dvc that started it is gone; run `dvc repro` again"))


def _let_waiting_threads_sleep() -> None:
    # A waiting thread of GNU's OpenMP, which torch has on Linux, spins for some 3 ms before it sleeps and so keeps a
    # core from other processes: two trainings side by side took 25 times as long as one. To spin for some 10 µs costs
    # next to nothing alone, while not to spin at all costs more. It is read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _format_warnings(name: str) -> None:
    usual = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        if issubclass(category, PtqflowWarning):
            return f"{_line(name, str(message))}\n"
        return usual(message, category, *where, **line)

    warnings.formatwarning = formatted


def _line(name: str, message: str) -> str:
    return f"{name}: {' '.join(message.split())}"


def _describe(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    advice = "; free some space and run `dvc repro` again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror or error}{where}{advice}"
