import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import SOURCE, packages

from ptqflow.core.code import hash_packages


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library, to be edited."""
    return Path(shutil.copytree(SOURCE, tmp_path / "ptqflow", ignore=shutil.ignore_patterns("__pycache__")))


def hash_of(library: Path, *names: str) -> str:
    """Hash packages of a library as a process does that imports nothing else of it."""
    code = f"from ptqflow.core.code import hash_packages; print(hash_packages({names}), end='')"
    command = [sys.executable, "-B", "-c", code]
    return subprocess.run(
        command, env={"PYTHONPATH": str(library.parent)}, check=True, capture_output=True, text=True
    ).stdout


def test_the_hash_is_the_same_wherever_the_library_lies_and_whatever_is_imported(library: Path) -> None:
    assert hash_of(library, "core", "data") == hash_packages(["core", "data"])


def test_order_and_repetition_of_the_packages_do_not_matter() -> None:
    assert hash_packages(["data", "core", "data"]) == hash_packages(["core", "data"])


def test_every_package_has_a_hash_of_its_own() -> None:
    assert len({hash_packages([name]) for name in packages()}) == len(packages()) > 10


def test_an_edited_new_or_renamed_file_changes_the_hash_of_its_package_alone(library: Path) -> None:
    hashes = [hash_of(library, "train")]
    other = hash_of(library, "report")
    with (library / "train" / "params.py").open("a") as file:
        file.write("# edited\n")
    hashes.append(hash_of(library, "train"))
    (library / "train" / "extra.py").write_text("")
    hashes.append(hash_of(library, "train"))
    (library / "train" / "extra.py").rename(library / "train" / "renamed.py")
    hashes.append(hash_of(library, "train"))

    assert len(set(hashes)) == 4
    assert hash_of(library, "report") == other
    (library / "train" / "notes.txt").write_text("no code")
    assert hash_of(library, "train") == hashes[-1]


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(ValueError, match="ptqflow has no package 'absent'"):
        hash_packages(["absent"])
