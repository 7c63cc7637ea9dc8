"""Each output of the pipeline, damaged as a disk or a hand does it, and each stage that reads it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import STAGES, Repository, outputs_of

pytestmark = pytest.mark.faults
COST = 10
WHOLE = ("dvc.lock", "data", "models", "metrics", "report")


def damage(file: Path, kind: str, random_: random.Random) -> None:
    """Damage a file; where its size stays, its times do, too."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    match kind:
        case "flipped bit":
            content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
            file.write_bytes(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "cut":
            file.write_bytes(content[: random_.randrange(len(content))])
        case "emptied":
            file.write_bytes(b"")
        case "a folder in its place":
            file.unlink()
            file.mkdir()
        case _:
            file.unlink()
            file.symlink_to(random_.choice(["nowhere", "/dev/null", "/dev/zero"]))


def test_damaged_outputs(
    random_: random.Random, record_property: Callable[[str, object], None], repository: Repository
) -> None:
    before = repository.contents(*WHOLE)
    pairs = [
        (output, writer, reader)
        for writer in STAGES
        for output in outputs_of(writer)
        for reader, stage in STAGES.items()
        if output in stage["deps"] and writer != "inputs"
    ]
    output, writer, reader = random_.choice(pairs)
    path = repository.path / output
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    file = random_.choice(files)
    kind = random_.choice(["flipped bit"] * 3 + ["cut", "emptied", "a folder in its place", "a link in its place"])
    damage(file, kind, random_)

    result = repository.try_run("dvc", "repro", "--force", "--single-item", reader)

    case = f"{kind}: {file.relative_to(repository.path)}, written by {writer}, read by {reader}"
    assert "Traceback" not in result.output, f"{case}\n{result.output}"
    if result.status:
        lines = [line for line in result.output.splitlines() if line.startswith(f"{reader.partition('@')[0]}: ")]
        assert len(lines) == 1 or not result.ran, f"{case}\n{result.output}"
    else:
        assert repository.contents(*outputs_of(reader)).items() <= before.items(), case
    repaired = repository.try_run("env", "PYTHONPATH=src", "python", "-m", "ptqflow.cli", "repair")
    assert repaired.status == 0, f"{case}\n{repaired.output}"
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before, case
    record_property("outcome", "one line, then repaired" if result.status else "not read, then repaired")
    shutil.rmtree(repository.path)
