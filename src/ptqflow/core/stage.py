"""Start and end a stage script: one line for a user's mistake, no orphan, no half-written file."""

import ctypes
import errno
import gc
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

from ptqflow.core.errors import PtqflowError, PtqflowWarning, describe_os_error
from ptqflow.core.machine import cpu_quota, usable_cores

LAUNCHER = "PTQFLOW_LAUNCHER"
"""Environment variable with the process that started a rank, where that is another process of the same stage."""

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def run(name: str, main: Callable[[], str | None]) -> None:
    """Run a stage's `main`; exit with status 1 and one line on stderr where the user can fix the cause.

    What `main` returns is printed in one line, with the seconds that it took.

    Stage scripts import torch inside `main`, so that what is set up here applies before torch is loaded.

    - Ctrl-C ends the process at once: outputs appear whole or not at all, so there is nothing to clean up.
    - What `dvc` has the stage read is what other stages wrote, by dvc.lock; see `require_intact_deps`.
    - When `dvc` is killed, the stage ends with it; otherwise the next `dvc repro` would run at the same time (Linux
      only).
    - A `PtqflowWarning` is one line on stderr.
    - OpenMP starts no more threads than a container's CPU quota has cores, unless OMP_NUM_THREADS is set.
    - Waiting threads of OpenMP sleep soon, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set.
    - Memory that is freed stays with the process, for the next tensor (glibc only).
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(name)
    _limit_threads()
    _let_waiting_threads_sleep()
    _keep_freed_memory()
    _format_warnings(name)
    start = time.monotonic()
    try:
        _require_intact_deps()
        if done := main():
            print(f"{_line(name, done)} ({time.monotonic() - start:.1f} s)")
        if is_rank():
            _leave(0)
    except PtqflowError as error:
        _end(name, str(error))
    except OSError as error:
        _end(name, _describe(error))
    except Exception:
        if not is_rank():
            raise
        _report(traceback.format_exc())


def _require_intact_deps() -> None:
    if "DVC_STAGE" in os.environ and not is_rank():
        from ptqflow.core.outputs import require_intact_deps

        require_intact_deps(os.environ["DVC_STAGE"])


def _end(name: str, message: str) -> NoReturn:
    if is_rank():  # the launcher reports it once for all ranks
        _report(message)
    sys.exit(_line(name, message))


def _report(message: str) -> NoReturn:
    """Write for the agent why this rank ends."""
    failure = {"message": message, "timestamp": str(int(time.time()))}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(failure), encoding="utf-8")
    _leave(1)


def _leave(status: int) -> NoReturn:
    """End this rank without finalizing the interpreter.

    Gloo's threads may still hold tensors of a collective that is done. One that frees them while the interpreter is
    finalized asks for the GIL and aborts the process (https://github.com/pytorch/pytorch/pull/179291): the agent would
    report a rank that ended by SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_rank() -> bool:
    """Return whether torchrun, or its agent in `ptqflow.core.launch`, has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def die_with_parent(name: str) -> None:
    """Have the kernel kill this process when its parent ends (Linux only); exit where it has ended already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that was killed before this call sends no signal: the parent is then init or a subreaper, a process of
    # another group. dvc, also that of an experiment or a queue, starts stages in its own group.
    if is_rank():
        is_orphan = os.environ.get(LAUNCHER) not in (None, str(os.getppid()))
    else:
        is_orphan = "DVC_STAGE" in os.environ and os.getpgid(os.getppid()) != os.getpgrp()
    if is_orphan:
        sys.exit(_line(name, "the dvc that started it is gone; run `dvc repro` again"))


def _limit_threads() -> None:
    # By default OpenMP starts a thread for each core of the affinity; under a quota for fewer they are throttled.
    quota = cpu_quota()
    if quota is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _let_waiting_threads_sleep() -> None:
    # A waiting thread of GNU's OpenMP, which torch uses on Linux, spins for about 3 ms before it sleeps and so keeps a
    # core busy: two trainings side by side took 25 times as long as one. Spinning for about 10 µs costs a single
    # training next to nothing; not spinning at all costs more. The variable is read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _keep_freed_memory() -> None:
    # glibc returns a large block to the kernel when it is freed, and the kernel clears each page of the next one: a
    # quarter of the time of a vision transformer's forward passes.
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, -1)


def free_memory() -> None:
    """Return to the system what nothing refers to any more: after the large networks of one part, before the next."""
    gc.collect()  # graphs of torch.fx are cycles
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


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
    advice = "; free some space and run `dvc repro` again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{describe_os_error(error)}{advice}"
