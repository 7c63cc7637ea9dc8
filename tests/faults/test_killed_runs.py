"""`dvc repro` and its stages, killed at any moment."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import Repository

pytestmark = pytest.mark.faults
COST = 30
WHOLE = ("dvc.lock", "data", "models", "metrics", "report")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = status.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:  # ended meanwhile
            continue
        if int(its_session) == session and state not in "ZX":
            found.append(int(status.parent.name))
    return found


def test_killed_runs(
    random_: random.Random, record_property: Callable[[str, object], None], repository: Repository
) -> None:
    before = repository.contents(*WHOLE)
    forced = random_.random() < 0.5
    if not forced:
        shutil.rmtree(repository.path / ".dvc/cache")
        for name in ("data", "models", "report", "dvc.lock"):
            path = repository.path / name
            path.unlink() if path.is_file() else shutil.rmtree(path)
    number, whole_group = random_.choice(SIGNALS), random_.random() < 0.5
    with repository.running("dvc", "repro", *(["--force"] if forced else [])) as dvc:
        time.sleep(random_.uniform(0.5, 30))
        victims = [dvc.pid] if random_.random() < 0.5 else processes_of(dvc.pid)[-1:]
        try:
            os.killpg(dvc.pid, number) if whole_group else [os.kill(victim, number) for victim in victims]
        except ProcessLookupError:
            record_property("outcome", "had ended")
        end = time.monotonic() + 60
        while processes_of(dvc.pid) and time.monotonic() < end:
            time.sleep(0.05)
        left = processes_of(dvc.pid)
    assert not left, f"{signal.Signals(number).name} left {left}"
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before, signal.Signals(number).name
    record_property("outcome", "equal bytes after the next `dvc repro`")
    shutil.rmtree(repository.path)
