"""The processes that a try starts, to hit one of them and to see that none is left."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def processes_of(session: int) -> dict[int, str]:
    """Return process → command line of all that run in a session, without zombies, by their numbers."""
    return _running(lambda folder: int(_status(folder)[3]) == session)


def processes_below(directory: Path) -> dict[int, str]:
    """Return the same of all that work in a directory, also of daemons, which have sessions of their own."""
    return _running(lambda folder: (folder / "cwd").readlink().is_relative_to(directory))


def _running(is_meant: Callable[[Path], bool]) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if _status(folder)[0] not in "ZX" and is_meant(folder):
                found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return dict(sorted(found.items()))


def _status(folder: Path) -> list[str]:
    return (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]


def wait_until_ended(left: Callable[[], dict[int, str]], seconds: float = 60) -> dict[int, str]:
    """Return the processes that are left when the time is over; none at best, and then at once."""
    end = time.monotonic() + seconds
    while (running := left()) and time.monotonic() < end:
        time.sleep(0.05)
    return running


def kill_all(processes: dict[int, str]) -> None:
    """End them at once."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
