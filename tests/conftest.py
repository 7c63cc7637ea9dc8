"""Shared by all tests."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from disks import mounted

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a directory of its own: the library resolves params.yaml, inputs/ and metrics/ from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the library adds the directory, for the user's modules


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    yield from mounted(tmp_path / "disk", "1m")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported miniature model that tests leave unchanged."""
    from exported import write_export  # imports torch, which most tests do without

    return write_export(tmp_path_factory.mktemp("models") / "export")


@pytest.fixture
def export(pristine: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(pristine, tmp_path / "export")


@pytest.fixture
def broken_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An OpenVINO that is found and cannot be imported; return why."""
    reason = "libtbb.so.12 cannot be opened"
    package = tmp_path / "packages" / "openvino"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise ImportError({reason!r})\n")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    for module in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, module)
    return reason


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright  # only for whom it is needed

    chromium = shutil.which("chromium")
    assert chromium, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
