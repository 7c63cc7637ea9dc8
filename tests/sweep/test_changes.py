import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ptqflow.sweep.changes import apply_changes, read_changes

LOCK = "schema: '2.0'\nstages:\n  fetch:\n    cmd: fetch\n  calib:\n    cmd: {calib}\n  convert:\n    cmd: {convert}\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for command in ("git init -q", "git add -A", "git -c user.name=a -c user.email=a@b commit -qm a"):
        if "add" in command:
            (tmp_path / "dvc.lock").write_text(LOCK.format(calib="old", convert="old"))
            (tmp_path / "params.yaml").write_text("calib: 1\n")
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    return tmp_path


def test_changed_and_new_files_are_read_as_bytes_and_the_params_are_not(clone: Path) -> None:
    (clone / "metrics").mkdir()
    (clone / "metrics/ä b.csv").write_bytes(b"1\r\n")
    (clone / "params.yaml").write_text("calib: 2\n")
    lock = LOCK.format(calib="new", convert="old")
    (clone / "dvc.lock").write_text(lock)
    assert read_changes(clone) == {"metrics/ä b.csv": b"1\r\n", "dvc.lock": lock.encode()}


def test_two_clones_that_ran_different_stages_are_merged(clone: Path) -> None:
    one = {"dvc.lock": LOCK.format(calib="new", convert="old").encode(), "metrics/evaluate.json": b"{}"}
    other = {"dvc.lock": LOCK.format(calib="old", convert="new").encode(), "convert.json": b"[]\r\n"}
    apply_changes(clone, [one, other])
    assert YAML(typ="safe").load(clone / "dvc.lock") == YAML(typ="safe").load(LOCK.format(calib="new", convert="new"))
    assert (clone / "metrics/evaluate.json").read_bytes() == b"{}"
    assert (clone / "convert.json").read_bytes() == b"[]\r\n"


def test_without_a_committed_lock_that_of_the_other_clone_is_taken(clone: Path) -> None:
    (clone / "dvc.lock").unlink()
    lock = LOCK.format(calib="new", convert="new")
    apply_changes(clone, [{"dvc.lock": lock.encode()}])
    assert YAML(typ="safe").load(clone / "dvc.lock") == YAML(typ="safe").load(lock)


def test_no_changes_leave_a_clone_unchanged(clone: Path) -> None:
    apply_changes(clone, [])
    assert read_changes(clone) == {}
