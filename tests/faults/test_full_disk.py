"""A real disk that is full at any moment, for a stage or for dvc itself, and then has room again."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from disks import mounted
from killing import WHOLE, repro
from processes import processes_of, wait_until_ended
from repository import STAGES, Repository

pytestmark = pytest.mark.faults
COST = 20
OUTPUTS = ("data", "models", "metrics", "report")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a clone, its cache and its temporary files."""
    yield from mounted(tmp_path / "disk", "64m")


@contextmanager
def kept_full(disk: Path, room: int) -> Iterator[None]:
    """Leave so many bytes free, also when something is removed."""
    ended = Event()
    filler = disk / "filler"

    def fill() -> None:
        with filler.open("wb") as file:
            while not ended.wait(0.01):
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - room
                if free > 0:
                    with suppress(OSError):  # a stage was quicker
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    thread = Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        filler.unlink()


def test_full_disk(
    random_: random.Random, record_property: Callable[[str, object], None], disk: Path, reproduced: Path
) -> None:
    repository = Repository(shutil.copytree(reproduced, disk / "a clone", symlinks=True))
    before = repository.contents(*WHOLE)
    stage = random_.choice([*STAGES, "any"])
    target = [] if stage == "any" else ["--single-item", stage]
    room = random_.choice([0, int(2 ** random_.uniform(12, 22))])
    moment = random_.choice(["from the start", "at some time", "when a stage has ended"])
    temporary = disk / "tmp"
    temporary.mkdir()
    command = ["env", f"TMPDIR={temporary}", "dvc", "repro", "--force", *target]
    case = f"{room} bytes free {moment}, for {stage}"

    with Path("output").open("w+") as output, repository.running(*command, output=output) as dvc:
        if moment == "at some time":
            time.sleep(random_.uniform(0, 4 if target else 30))
        elif moment == "when a stage has ended":
            _wait_for_the_end_of_a_stage(dvc.pid, random_.randrange(1 if target else len(STAGES)))
        with kept_full(disk, room):
            status = dvc.wait(300)
            left = wait_until_ended(lambda: processes_of(dvc.pid))
        output.seek(0)
        printed = output.read()

    assert not left, case
    assert "Traceback" not in printed, f"{case}\n{printed}"
    assert bool(status) == ("ERROR: " in printed), f"{case}\n{printed}"
    assert repository.contents(*OUTPUTS).items() <= before.items(), case
    assert not [*temporary.glob("tmp*")], case
    remedy = repro(repository, case)
    assert repository.contents(*WHOLE) == before, case
    record_property("outcome", f"one line, then equal bytes{remedy}" if status else "room enough")
    shutil.rmtree(repository.path)


def _wait_for_the_end_of_a_stage(dvc: int, number: int) -> None:
    """Return when so many stages, and one more, have started and ended, or all has."""
    seen: set[int] = set()
    while running := processes_of(dvc):
        stages = {process for process, command in running.items() if "python stages/" in command}
        seen |= stages
        if len(seen) > number and not stages:
            return
        time.sleep(0.005)
