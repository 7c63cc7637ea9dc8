"""Fixtures: a repository whose pipeline has run, made once, and a copy of it for each test."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from repository import TINY_MODEL, TINY_PARAMS, Repository, copy_tracked


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The repository after `dvc repro` and a commit; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    done = shared / "reproduced" / "a clone"
    with FileLock(shared / "reproduced.lock"):
        if not done.exists():
            repository = Repository(shared / "making" / "a clone")
            copy_tracked(repository.path)
            (repository.path / "tiny.py").write_text(TINY_MODEL)
            for generated in ("dvc.lock", "metrics"):
                path = repository.path / generated
                path.unlink() if path.is_file() else shutil.rmtree(path)
            repository.run("git", "init", "-qb", "main")
            repository.set_params(TINY_PARAMS)
            repository.run("dvc", "repro")
            repository.commit("tiny pipeline")
            repository.path.parent.rename(done.parent)
    return done


@pytest.fixture
def repository(reproduced: Path, tmp_path: Path) -> Repository:
    """A copy of the reproduced repository."""
    copy = tmp_path / "a clone"
    shutil.copytree(reproduced, copy, symlinks=True)
    return Repository(copy)
