"""A team's clones over remotes of every kind, with the real servers on this host."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from pipeline.test_faults import assert_one_clear_line
from remotes import folder, s3, ssh
from repository import Repository
from samples import image_files, write_folder

LEFT_OUT = pytest.mark.skipif(shutil.which("sshd") is None, reason="Debian's openssh-server is not installed")
LINKED = {"inputs", "fetch", "dry_run", "train"}
"""Stages that write or read the links of inputs/, which no cache holds."""
Start = Callable[[Repository], AbstractContextManager[None]]


REMOTES = [pytest.param(folder, id="folder"), pytest.param(ssh, id="ssh", marks=LEFT_OUT), pytest.param(s3, id="s3")]


def clone(repository: Repository, name: str) -> Repository:
    """Return a colleague's clone, whose cache is empty."""
    home = repository.path.parent / name
    home.mkdir()
    repository.run("git", "clone", "-q", str(repository.path), str(home / "a clone"))
    return Repository(home / "a clone")


def changed(repository: Repository) -> set[str]:
    """Return the stages that `dvc status` lists."""
    return {line.removesuffix(":") for line in repository.run("dvc", "status").output.splitlines() if line[0] != "\t"}


@pytest.mark.slow
@pytest.mark.parametrize("remote", REMOTES)
def test_what_one_pushes_another_has_without_running_a_stage_and_experiments_travel_too(
    repository: Repository, remote: Start
) -> None:
    with remote(repository):
        repository.run("dvc", "push")
        colleague = clone(repository, "colleague")
        assert colleague.run("dvc", "repro", "--pull").ran == []
        assert changed(colleague) == LINKED | {"pipelines/benchmark/dvc.yaml:benchmark"}
        assert colleague.contents("models", "metrics", "data") == repository.contents("models", "metrics", "data")

        colleague.run("dvc", "exp", "run", "-n", "trial", "-S", "calib.batches=3", "calib")
        colleague.run("dvc", "exp", "push", "origin", "trial")
        third = clone(repository, "third")
        third.run("dvc", "exp", "pull", "origin", "trial")
        third.run("dvc", "exp", "apply", "trial")
        assert third.run("dvc", "repro", "--pull", "calib").ran == []
        assert third.contents("models/statistics") == colleague.contents("models/statistics")


def refuse(repository: Repository, option: str, value: str) -> None:
    """Require that a push with a wrong secret fails without a traceback, and that the right one then works."""
    right = repository.run("dvc", "config", f"remote.store.{option}").output.strip()
    repository.run("dvc", "remote", "modify", "store", option, value)
    refused = repository.try_run("dvc", "push", "models/int8")
    assert refused.status
    assert "Traceback" not in refused.output
    repository.run("dvc", "remote", "modify", "store", option, right)
    assert "pushed" in repository.run("dvc", "push", "models/int8").output


@pytest.mark.slow
@LEFT_OUT
def test_a_key_that_the_host_does_not_know_is_refused(repository: Repository) -> None:
    with ssh(repository):
        refuse(repository, "keyfile", str(repository.path.parent / "ssh" / "stranger"))


@pytest.mark.slow
def test_a_wrong_secret_is_refused(repository: Repository) -> None:
    with s3(repository):
        refuse(repository, "secret_access_key", "another-secret")


@pytest.mark.slow
def test_a_clone_without_the_original_images_works_with_what_was_pushed(repository: Repository) -> None:
    photos = write_folder(repository.path.parent / "photos", image_files(20, 6))
    repository.set_params({"data": {"name": "image_folder", "path": str(photos)}})
    with folder(repository):
        repository.run("dvc", "repro", "calib")
        repository.commit("photos of this host")
        repository.run("dvc", "push", "--with-deps", "calib")
        shutil.rmtree(photos)
        colleague = clone(repository, "colleague")

        refused = colleague.try_run("dvc", "repro", "calib")
        assert_one_clear_line(
            refused, f"data.path: {photos} does not exist", "`dvc repro --pull` takes what was pushed"
        )
        assert colleague.run("dvc", "repro", "--pull", "calib").ran == []
        assert colleague.contents("models/statistics") == repository.contents("models/statistics")
        assert colleague.run("dvc", "exp", "run", "--pull", "-S", "calib.batches=1", "calib").ran == ["calib"]
