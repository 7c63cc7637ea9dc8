"""`init` and `upgrade` in real repositories of git and DVC."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ptqflow.cli import run
from ptqflow.project.code_file import hash_text, installed_code, write_code
from ptqflow.project.template import CODE_FILE, pipeline

WRITTEN = {"dvc.yaml", "params.yaml", "ptqflow.lock.json", ".gitignore", ".dvcignore"}
CHECKS = {".ci/pull_request.sh", ".github/workflows/ptqflow.yaml"}


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, in which the test runs; its name has a space."""
    path = tmp_path / "their repository"
    path.mkdir()
    monkeypatch.chdir(path)
    git("init", "-q")
    Path("README").write_text("theirs\n")
    Path(".gitignore").write_text("*.log")  # no line break at its end
    git("add", "-A")
    git("commit", "-qm", "theirs")
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Return all files but those of git itself."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and ".git" not in file.relative_to(path).parts
    }


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line of a command that fails and changes no file."""
    before = tree(Path())
    capsys.readouterr()
    assert run(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert tree(Path()) == before
    return error


def commit_all() -> None:
    git("add", "-A")
    git("commit", "-qm", "all")


def test_init_makes_a_dvc_project_of_a_git_repository_and_keeps_what_was_there(repository: Path) -> None:
    assert run(["init"]) == 0
    assert {*WRITTEN, *CHECKS} <= tree(repository).keys()
    assert Path("dvc.yaml").read_text() == pipeline()
    assert json.loads(CODE_FILE.read_text()) == installed_code()
    assert Path("README").read_text() == "theirs\n"
    lines = Path(".gitignore").read_text().splitlines()
    assert lines[0] == "*.log"
    assert {"/data/", "/models/", "/inputs/"} < set(lines)
    assert subprocess.run(["dvc", "stage", "list", "--name-only"], check=True, capture_output=True).stdout


def test_init_writes_equal_bytes_each_time(repository: Path) -> None:
    run(["init", "a"])
    commit_all()
    run(["init", "b"])
    for name in WRITTEN:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_models_side_by_side_are_dvc_projects_with_one_workflow(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init"]) == 0
    commit_all()
    first = tree(repository)
    capsys.readouterr()
    assert run(["init", "models of ours/birds"]) == 0
    assert "pull_request.sh: exists, kept" in capsys.readouterr().out
    assert all(tree(repository)[name] == content for name, content in first.items())
    assert {f"models of ours/birds/{name}" for name in WRITTEN} <= tree(repository).keys()
    assert Path("models of ours/birds/.dvc/plots/ranges.json").exists()


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", "ptqflow.lock.json", ".dvc/plots/ranges.json"])
def test_where_a_file_exists_nothing_is_written(
    repository: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("theirs")
    assert f"{name} exists, and nothing was written: run `ptqflow init FOLDER`" in refused(capsys, "init")


def test_a_dangling_link_counts_as_a_file(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").symlink_to("elsewhere.yaml")
    assert "params.yaml exists" in refused(capsys, "init")


def test_init_a_second_time_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init"])
    assert "dvc.yaml, params.yaml, ptqflow.lock.json" in refused(capsys, "init")


def test_init_in_no_git_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is in no git repository: run `git init` first" in refused(capsys, "init", str(tmp_path / "new"))


def test_init_beside_changes_that_git_does_not_have_is_refused(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("README").write_text("edited\n")
    assert "such as README: commit or stash them first" in refused(capsys, "init")


@pytest.mark.parametrize(("room", "error"), [(0, "ptqflow: `dvc init` in .: "), (1 << 15, "ptqflow: No space left")])
def test_init_on_a_full_disk_is_one_line_and_with_room_again_it_works(
    repository: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    room: int,
    error: str,
) -> None:
    git("clone", "-q", str(repository), str(small_disk / "clone"))
    monkeypatch.chdir(small_disk / "clone")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str((repository if room else small_disk) / "site"))
    filler, status = small_disk / "filler", os.statvfs(small_disk)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))

    assert run(["init"]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith(error)
    assert printed.count("\n") == 1
    assert "support" not in printed
    assert not {"dvc.yaml", "params.yaml", "ptqflow.lock.json"} & tree(Path()).keys()
    filler.unlink()
    assert run(["init"]) == 0


def test_init_in_a_file_is_one_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "README" in refused(capsys, "init", "README")


def test_where_a_file_cannot_be_written_all_is_as_it_was(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".github").write_text("no folder can be made here")
    git("add", "-A")
    git("commit", "-qm", "a file")
    assert ".github" in refused(capsys, "init")
    assert git("status", "--porcelain", "--ignored") == ""


def test_upgrade_names_what_reruns_and_replaces_a_pipeline_that_nobody_edited(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["init"])
    Path("dvc.yaml").write_text("# of an older version\n")
    old = installed_code() | {"version": "0.0.9", "calib": "0" * 64}
    write_code(Path(), old | {"pipeline": hash_text("# of an older version\n")})
    capsys.readouterr()
    assert run(["upgrade"]) == 0
    printed = capsys.readouterr().out
    assert "dvc repro reruns calib\n" in printed
    assert "dvc.yaml: replaced" in printed
    assert Path("dvc.yaml").read_text() == pipeline()
    assert json.loads(CODE_FILE.read_text()) == installed_code()


def test_upgrade_keeps_a_pipeline_that_was_edited(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init"])
    Path("dvc.yaml").write_text(f"{pipeline()}# edited\n")
    write_code(Path(), installed_code() | {"pipeline": "0" * 64})
    capsys.readouterr()
    assert run(["upgrade"]) == 0
    assert "edited here, so kept" in capsys.readouterr().out
    assert Path("dvc.yaml").read_text() == f"{pipeline()}# edited\n"
    assert Path("dvc.yaml.new").read_text() == pipeline()


def test_upgrade_of_the_installed_version_changes_no_byte(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init"])
    before = tree(repository)
    capsys.readouterr()
    assert run(["upgrade"]) == 0
    assert "reruns nothing" in capsys.readouterr().out
    assert tree(repository) == before


def test_upgrade_restores_a_code_file_that_was_deleted_or_damaged(repository: Path) -> None:
    run(["init"])
    for damage in (CODE_FILE.unlink, lambda: CODE_FILE.write_text("<<<<<<< HEAD\n")):
        damage()
        assert run(["upgrade"]) == 0
        assert json.loads(CODE_FILE.read_text()) == installed_code()


def test_upgrade_of_a_foreign_pipeline_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.yaml").write_text("stages: {}\n")
    assert "no pipeline of `ptqflow init`" in refused(capsys, "upgrade")
