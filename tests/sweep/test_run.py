"""What `ptqflow sweep` refuses before it starts anything."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT, Repository
from sweeping import make_project

from ptqflow import cli

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of DVC's use of pygtrie


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("made") / "project").path.parent


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    copy = shutil.copytree(made, tmp_path / "made")
    repository = Repository(copy / "project")
    repository.run("git", "remote", "set-url", "origin", str(copy / "git remote"))
    repository.run("dvc", "remote", "modify", "-q", "store", "url", str(copy / "dvc remote"))
    repository.commit("remotes")
    monkeypatch.chdir(repository.path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    return repository


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the line that a sweep is refused with."""
    assert cli.run(["sweep", *(arguments or ("-S", "calib.batches=1,2"))]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line.removeprefix("ptqflow: ")


def test_changes_that_no_commit_has(project: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    project.set_params({"calib": {"batches": 3}})
    assert refusal(capsys).startswith("the workspace has changes that no commit has (params.yaml), and ")


def test_a_folder_that_is_not_the_root(
    project: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("src")
    assert refusal(capsys).startswith(f"{project.path}/src is not the root of the repository: change to the ")


def test_no_git_remote(project: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("git", "remote", "rename", "origin", "other")
    assert refusal(capsys) == (
        "the repository has no git remote origin to push experiments to (it has other): `git remote add origin URL`, "
        "or set --git-remote"
    )


def test_a_git_remote_that_refuses(project: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("git", "remote", "set-url", "origin", "/nowhere")
    line = refusal(capsys)
    assert line.startswith("the git remote origin (/nowhere) takes no experiments (git: ")


def test_no_dvc_remote(project: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("dvc", "remote", "remove", "store")
    project.commit("no remote")
    line = refusal(capsys)
    assert line.startswith("the DVC remote, which a sweep's hosts share, cannot be written: config file error: no ")
    assert "dvc remote add -d" in line


def test_a_dvc_remote_that_refuses(project: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("dvc", "remote", "modify", "store", "url", "/proc/nowhere")
    project.commit("another remote")
    line = refusal(capsys)
    assert line.startswith("the DVC remote, which a sweep's hosts share, cannot be written: ")
    assert "/proc/nowhere" in line


def test_a_dvc_remote_whose_plugin_is_missing_or_that_is_unreachable(
    project: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run("dvc", "remote", "modify", "store", "url", "gs://bucket/path")
    project.commit("another remote")
    assert "gs is supported, but requires 'dvc-gs' to be installed" in refusal(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-S", "calib.batchs=1,2"], "unknown key calib.batchs; did you mean batches?"),
        (["-S", "calib.batches"], "is no grid"),
        (["-S", "run.threads=1,2"], "which no stage of the sweep depends on"),
        (["-S", "calib.batches=1,2", "converted"], "'converted'"),
    ],
)
def test_a_wrong_grid_or_target(
    project: Repository, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refusal(capsys, *arguments)


def test_nothing_is_left_in_a_remote_or_in_the_repository(
    project: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(capsys, "-S", "calib.batches=1,2", "--address", "127.0.0.1:1")
    assert [*(project.path.parent / "dvc remote").iterdir()] == []
    assert project.run("git", "ls-remote", "origin").output == ""
    assert project.run("git", "status", "--porcelain").output == ""


def test_ctrl_c_while_it_imports_torch_ends_it_without_a_word() -> None:
    with Path("errors").open("w") as errors:
        command = [sys.executable, "-m", "ptqflow.cli", "sweep", "-S", "calib.batches=1"]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stderr=errors)
    while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)

    assert process.wait(60) == -signal.SIGINT
    assert Path("errors").read_text() == ""


def test_ray_that_is_not_installed_is_one_line_with_the_command_that_installs_it(project: Repository) -> None:
    program = (
        "import sys; sys.modules['ray'] = None; from ptqflow import cli; "
        "print(cli.run(['sweep', '-S', 'calib.batches=1,2']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
    assert result.stderr == "ptqflow: Ray is not installed: run `pip install 'ptqflow[sweep]'`\n"


@pytest.mark.parametrize("arguments", [[], ["-S", "calib.batches=1,2", "--cpus", "0"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(["sweep", *arguments])
    assert caught.value.code == 2
