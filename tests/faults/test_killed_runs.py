"""`dvc repro`, its stages and what these start, killed, or stopped for a while, at any moment."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from processes import processes_of, wait_until_ended
from repository import Repository

pytestmark = pytest.mark.faults
COST = 30
OUTPUTS = ("data", "models", "report", "dvc.lock")
WHOLE = (*OUTPUTS, "metrics")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGSTOP)
SECONDS = {"cold": 30.0, "forced": 30.0, "gate": 1.0, "two ranks": 6.0, "training in two ranks": 8.0}
"""In which the signal comes, after the start, or that of a process of the gate."""


@pytest.fixture
def trained_in_ranks(reproduced: Path, tmp_path: Path) -> Callable[[], Repository]:
    """Return a function that returns a copy of a repository after a training in two ranks, made once."""

    def copied() -> Repository:
        made = reproduced.parent.parent / "ranks"
        with FileLock(f"{made}.lock"):
            if not made.exists():
                making = Repository(made.with_name("making ranks") / "a clone")
                shutil.copytree(reproduced, making.path, symlinks=True)
                making.set_params({"train": {"devices": 2, "epochs": 4}, "run": {"checkpoint_every": 1}})
                making.run("dvc", "repro")
                making.commit("two ranks")
                making.path.parent.rename(made)
        return Repository(shutil.copytree(made / "a clone", tmp_path / "ranks" / "a clone", symlinks=True))

    return copied


def test_killed_runs(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    repository: Repository,
    trained_in_ranks: Callable[[], Repository],
) -> None:
    kind, number = random_.choice([*SECONDS]), random_.choice(SIGNALS)
    if kind == "training in two ranks":
        repository = trained_in_ranks()
    before = repository.contents(*WHOLE)
    if kind == "two ranks":
        repository.set_params({"run": {"processes": 2}})
    changed = repository.run("git", "status", "--porcelain").output
    case = f"{number.name} to a run, {kind}"

    with Path("output").open("w+") as output, repository.running(*_command(kind, repository), output=output) as dvc:
        if kind == "gate":
            _wait_for_a_process_of_the_gate(dvc.pid)
        time.sleep(random_.uniform(0, SECONDS[kind]))
        running = [*processes_of(dvc.pid)]
        victims = random_.choice([running, [dvc.pid], running[1:], running[-1:]])
        _send(victims, number)
        if number == signal.SIGSTOP:
            time.sleep(random_.uniform(0.1, 3))
            _send(victims, signal.SIGCONT)
            assert dvc.wait(300) == 0, f"{case}\n{Path('output').read_text()}"
        left = wait_until_ended(lambda: processes_of(dvc.pid), 300)  # dvc alone ignores SIGINT while a stage runs
        ended, printed = dvc.poll(), Path("output").read_text()

    assert not left, f"{case}\n{printed}"
    assert "Traceback" not in printed, f"{case}\n{printed}"
    if number == signal.SIGSTOP:
        assert repository.contents(*WHOLE) == before, case
    repository.run("dvc", "repro")
    found = repository.contents(*WHOLE)
    partial = {name for name in found if re.search(r"(^|/)\.[^/]+\.partial(/|$)", name)}
    assert {name: content for name, content in found.items() if name not in partial} == before, case
    assert repository.run("git", "status", "--porcelain").output == changed, case
    if partial:  # of a stage that the next `dvc repro` took from the cache
        repository.run("env", "PYTHONPATH=src", "python", "-m", "ptqflow.cli", "repair")
        assert repository.contents(*WHOLE) == before, case
    after = "equal bytes after the next `dvc repro`" + " and `ptqflow repair`" * bool(partial)
    record_property("outcome", "ended well all the same" if ended == 0 else after)
    shutil.rmtree(repository.path)


def _command(kind: str, repository: Repository) -> list[str]:
    match kind:
        case "cold":
            shutil.rmtree(repository.path / ".dvc/cache")
            for path in (repository.path / name for name in OUTPUTS):
                path.unlink() if path.is_file() else shutil.rmtree(path)
            return ["dvc", "repro"]
        case "forced":
            return ["dvc", "repro", "--force"]
        case "gate":
            return ["dvc", "repro", "--force", "--single-item", "export"]
        case "two ranks":
            return ["dvc", "repro", "--force", "--single-item", "calib", "predict@int8"]
        case _:
            return ["dvc", "repro", "--force", "--single-item", "train"]


def _wait_for_a_process_of_the_gate(dvc: int) -> None:
    while (running := processes_of(dvc)) and not any("ptqflow.export.replay" in line for line in running.values()):
        time.sleep(0.01)


def _send(victims: Iterable[int], number: signal.Signals) -> None:
    for victim in victims:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(victim, number)
