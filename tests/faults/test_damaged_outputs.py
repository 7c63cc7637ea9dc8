"""Each output of the pipeline, damaged as a disk or a hand does it, and each stage that reads it."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import PTQFLOW, REPAIR, WHOLE
from repository import STAGES, Repository, Result, outputs_of
from ruamel.yaml import YAML

pytestmark = pytest.mark.faults
SUMMARIZED = [
    "data/predictions",
    "models/export",
    *(f"metrics/plots/{name}.csv" for name in ("calib_tensors", "export", "ranges", "search", "sensitivity")),
]
KINDS = ["flipped bit"] * 3 + ["cut", "emptied", "removed", "a folder in its place", "a link in its place"]


def damage(file: Path, kind: str, random_: random.Random) -> None:
    """Damage a file; where its size stays, its times do, too."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    match kind:
        case "flipped bit":
            content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
            file.chmod(0o644)  # objects of the cache are read-only
            file.write_bytes(content)
            file.chmod(status.st_mode)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "cut" | "emptied":
            file.chmod(0o644)
            file.write_bytes(content[: random_.randrange(len(content)) if kind == "cut" else 0])
        case "removed":
            file.unlink()
        case "a folder in its place":
            file.unlink()
            file.mkdir()
        case _:
            file.unlink()
            file.symlink_to(random_.choice(["nowhere", "/dev/null"]))  # DVC copies /dev/zero until the disk is full


def outputs_and_readers() -> list[tuple[str, str]]:
    """Return each output of a stage with each of its readers: stages, or commands of ptqflow."""
    of_stages = [output for writer in STAGES if writer != "inputs" for output in outputs_of(writer)]
    read = [(output, reader) for output in of_stages for reader, stage in STAGES.items() if output in stage["deps"]]
    read += [(output, "summary") for output in SUMMARIZED]
    return read + [(output, "compare") for output in of_stages if re.fullmatch(r"metrics/\w+\.json", output)]


def read_by(reader: str, repository: Repository) -> tuple[Result, bool]:
    """Have a stage or a command read a damaged output, and return whether it says so in one line, or fails to start."""
    if reader in STAGES:
        result = repository.try_run("dvc", "repro", "--force", "--single-item", reader)
        lines = [line for line in result.output.splitlines() if line.startswith(f"{reader.partition('@')[0]}: ")]
        return result, len(lines) == 1 or not result.ran
    if reader == "summary":
        result = repository.try_run(*PTQFLOW, "summary")
    else:  # which reads what is committed
        repository.commit("damaged")
        result = repository.try_run(*PTQFLOW, "compare", "HEAD~1", "HEAD", "--md")
    return result, len(result.output.splitlines()) == 1


def damage_in_cache(repository: Repository, output: str, kind: str, random_: random.Random) -> str:
    """Damage an object of the cache from which an output is restored, and have DVC restore it."""
    lock = YAML(typ="safe").load(repository.read("dvc.lock"))
    digest = next(
        out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", []) if out["path"] == output
    )
    cache, path = repository.path / ".dvc/cache/files/md5", repository.path / output
    digests = [digest]
    if digest.endswith(".dir"):
        digests += [entry["md5"] for entry in json.loads((cache / digest[:2] / digest[2:]).read_bytes())]
        shutil.rmtree(path)
    else:
        path.unlink()
    digest = random_.choice(digests)
    damage(cache / digest[:2] / digest[2:], kind, random_)
    restored = repository.try_run("dvc", "checkout", "--force", output)
    assert "Traceback" not in restored.output, restored.output
    return f"{kind}: the object {digest} of {output}"


def damage_in_place(repository: Repository, output: str, kind: str, random_: random.Random) -> str:
    """Damage a file of an output."""
    path = repository.path / output
    file = random_.choice(sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path])
    damage(file, kind, random_)
    return f"{kind}: {file.relative_to(repository.path)}"


def test_damaged_outputs(
    random_: random.Random, record_property: Callable[[str, object], None], repository: Repository
) -> None:
    before = repository.contents(*WHOLE)
    output, reader = random_.choice(outputs_and_readers())
    kind = random_.choice(KINDS)
    is_cached = output.startswith(("data/", "models/"))
    damage_it = damage_in_cache if is_cached and random_.random() < 0.3 else damage_in_place
    case = f"{damage_it(repository, output, kind, random_)}, read by {reader}"

    result, is_one_line = read_by(reader, repository)

    assert "Traceback" not in result.output, f"{case}\n{result.output}"
    if result.status:
        assert is_one_line, f"{case}\n{result.output}"
    elif reader in STAGES:
        assert repository.contents(*outputs_of(reader)).items() <= before.items(), case
    repaired = repository.try_run(*REPAIR)
    assert repaired.status == 0, f"{case}\n{repaired.output}"
    again = repository.try_run("dvc", "repro")
    assert again.status == 0, f"{case}\n{repaired.output}\n{again.output}"
    assert repository.contents(*WHOLE) == before, f"{case}\n{repaired.output}"
    record_property("outcome", "one line, then repaired" if result.status else "not read, then repaired")
    shutil.rmtree(repository.path)
