"""`dvc repro`, its stages and what these start, killed, or stopped for a while, at any moment."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from killing import OUTPUTS, WHOLE, require_equal_bytes_after_repro, signal_dvc
from processes import processes_of
from repository import Repository

pytestmark = pytest.mark.faults
COST = 30
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
    kind = random_.choice([*SECONDS])
    if kind == "training in two ranks":
        repository = trained_in_ranks()
    before = repository.contents(*WHOLE)
    if kind == "two ranks":
        repository.set_params({"run": {"processes": 2}})
    changed = repository.run("git", "status", "--porcelain").output

    def wait(dvc: int) -> None:
        if kind == "gate":
            _wait_for_a_process_of_the_gate(dvc)
        time.sleep(random_.uniform(0, SECONDS[kind]))

    number, ended, _ = signal_dvc(repository, _command(kind, repository), random_, wait)

    case = f"{number} to a run, {kind}"
    if number == "SIGSTOP":
        assert repository.contents(*WHOLE) == before, case
    after = require_equal_bytes_after_repro(repository, before, changed, case)
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
