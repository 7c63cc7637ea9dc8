"""The pipeline in a repository that is not ptqflow's, by a wheel in an environment of its own."""

import json
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from repository import TINY_MODEL, TINY_PARAMS, Repository, copy_tracked

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A git repository of the user's, and the environment with the wheel."""

    repository: Repository
    environment: Path

    @property
    def package(self) -> Path:
        return next(self.environment.glob("lib/python*/site-packages")) / "ptqflow"

    def try_run(self, *command: str) -> "tuple[int, str]":
        """Run a command with the environment's own programs first on the path."""
        path = f"{self.environment / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
        result = self.repository.try_run("env", f"PATH={path}", *command)
        return result.status, result.output

    def run(self, *command: str) -> str:
        status, output = self.try_run(*command)
        assert status == 0, output
        return output

    def ran(self, *command: str) -> list[str]:
        """Run dvc; return the stages that ran."""
        lines = self.run(*command).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage ")]


def make_environment(folder: Path) -> None:
    """Make an environment with ptqflow from a wheel, and all else from the environment of the tests.

    A line of a .pth adds a folder without reading that folder's own .pth files, so an editable ptqflow is not in it.
    """
    sources = folder.parent / "sources"
    copy_tracked(sources)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder.parent, sources]
    subprocess.run(build, check=True)
    shutil.rmtree(sources)  # nothing may come from there
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "third_party.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    wheel = next(folder.parent.glob("*.whl"))
    install = [*pip, "--python", folder / "bin/python", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)


@pytest.fixture(scope="session")
def reproduced_elsewhere(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installed:
    """A repository after `ptqflow init`, `dvc repro`, a commit and `dvc push`; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "installed"
    installed = Installed(Repository(folder / "their repository"), folder / "environment")
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            make_environment(installed.environment)
            repository = installed.repository
            repository.path.mkdir()
            repository.run("git", "init", "-qb", "main")
            installed.run("ptqflow", "init")
            (repository.path / "tiny.py").write_text(TINY_MODEL)
            repository.set_params(TINY_PARAMS)
            installed.run("dvc", "remote", "add", "-d", "storage", str(folder / "storage"))
            repository.commit("ptqflow init")
            installed.run("dvc", "repro")
            repository.commit("results")
            installed.run("dvc", "push")
            (folder / "done").touch()
    return installed


@pytest.fixture
def installed(reproduced_elsewhere: Installed, tmp_path: Path) -> Installed:
    """A copy of the repository, with the same environment."""
    folder = tmp_path / "their repository"
    shutil.copytree(reproduced_elsewhere.repository.path, folder, symlinks=True)
    return Installed(Repository(folder), reproduced_elsewhere.environment)


def test_the_wheel_runs_the_pipeline_and_git_has_all_that_it_wrote(installed: Installed) -> None:
    imported = installed.run("python", "-c", "import ptqflow; print(ptqflow.__file__)").strip()
    assert Path(imported) == installed.package / "__init__.py"
    assert installed.run("dvc", "status").endswith("up to date.\n")
    assert installed.run("git", "status", "--porcelain") == ""
    metrics = json.loads((installed.repository.path / "metrics/evaluate.json").read_text())
    assert 0 <= metrics["int8_top1"] <= 1
    assert installed.run("ptqflow", "verify", "models/export")


def test_an_experiment_reruns_from_the_stage_whose_key_it_sets(installed: Installed) -> None:
    ran = installed.ran("dvc", "exp", "run", "-S", "calib.batches=20", "predict@int8")
    assert ran == ["calib", "convert", "predict@int8"]


def test_after_an_upgrade_a_stage_of_other_code_ends_with_one_line_until_ptqflow_upgrade_marks_it(
    installed: Installed,
) -> None:
    edited = installed.package / "predict/network.py"
    original = edited.read_bytes()
    try:
        edited.write_bytes(original + b"\n# as of another version\n")
        status, output = installed.try_run("ptqflow", "stage", "predict", "int8")
        assert status == 1
        assert output.count("\n") == 1
        assert "run `ptqflow upgrade`" in output
        assert "reruns predict\n" in installed.run("ptqflow", "upgrade")
        assert set(json.loads(installed.run("dvc", "status", "--json"))) == {
            "predict@fp32",
            "predict@int8",
            "predict@int8_uncalibrated",
        }
        assert installed.ran("dvc", "repro", "--single-item", "predict@int8") == ["predict@int8"]
    finally:
        edited.write_bytes(original)


def test_the_script_for_pull_requests_takes_results_from_the_remote_and_writes_the_comment(
    installed: Installed, tmp_path: Path
) -> None:
    clone = Repository(tmp_path / "clone of a forge")
    installed.run("git", "clone", "-q", str(installed.repository.path), str(clone.path))
    forge = Installed(clone, installed.environment)
    output = forge.run("bash", ".ci/pull_request.sh", "origin/main", "build/pull request", "--significant")
    assert "Running stage" not in output
    comment = (clone.path / "build/pull request/comment.md").read_text()
    assert "origin/main" in comment
    page = (clone.path / "build/pull request/report.html").read_text()
    assert f"<dt>Commit</dt><dd>{forge.run('git', 'rev-parse', '--short', 'HEAD').strip()}, " in page


def test_the_script_says_so_where_the_base_has_no_results(installed: Installed) -> None:
    installed.run("bash", ".ci/pull_request.sh", "HEAD~1", "out")
    assert installed.repository.read("out/comment.md") == "HEAD~1 has no results to compare with.\n"


def test_the_script_fails_with_the_line_of_compare_in_the_comment(installed: Installed) -> None:
    # A commit whose dvc.lock is there, and names no predictions that the cache or the remote has.
    lock = installed.repository.path / "dvc.lock"
    text = lock.read_text()
    lock.write_text(re.sub(r"md5: \w+\.dir", f"md5: {'0' * 32}.dir", text))
    installed.repository.commit("results that nobody has")
    lock.write_text(text)
    installed.repository.commit("results")
    status, _ = installed.try_run("bash", ".ci/pull_request.sh", "HEAD~1", "out")
    comment = installed.repository.read("out/comment.md")
    assert status == 1
    assert comment.startswith("ptqflow: DVC can read the predictions of HEAD~1 neither")
    assert comment.count("\n") == 1
