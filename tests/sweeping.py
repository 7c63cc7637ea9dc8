"""A project whose stages take no time, with all that a sweep needs: a commit, a git remote and a DVC remote."""

import shutil
from pathlib import Path

from repository import ROOT, Repository

STAGE = """
import json, sys
from pathlib import Path

from ruamel.yaml import YAML

name, *deps = sys.argv[1:]
made = [YAML(typ="safe").load(Path("params.yaml"))[name], *(Path(dep).read_text() for dep in deps)]
Path(f"{name}.out").write_text(json.dumps(made))
Path(f"{name}.json").write_text(json.dumps({name: len(repr(made))}))
"""

PIPELINE = """
stages:
  data: {cmd: python stage.py data, params: [data], outs: [data.out], metrics: [data.json: {cache: false}]}
  calib:
    cmd: python stage.py calib data.out
    params: [calib]
    deps: [data.out]
    outs: [calib.out]
    metrics: [calib.json: {cache: false}]
  convert:
    cmd: python stage.py convert calib.out
    params: [convert]
    deps: [calib.out]
    outs: [convert.out]
    metrics: [convert.json: {cache: false}]
"""


def make_project(path: Path) -> Repository:
    """Return a repository with ptqflow and a commit; its remotes lie beside it."""
    shutil.copytree(ROOT / "src", path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "params.yaml"):
        shutil.copy(ROOT / name, path)
    (path / "stage.py").write_text(STAGE)
    (path / "dvc.yaml").write_text(PIPELINE)
    (path / ".gitignore").write_text("__pycache__/\n/*.out\n")
    repository = Repository(path)
    repository.run("git", "init", "-qb", "main")
    repository.run("dvc", "init", "-q")
    add_remotes(repository)
    return repository


def add_remotes(repository: Repository) -> None:
    """Add a git remote and a DVC remote, and commit everything."""
    beside = repository.path.parent
    repository.run("git", "init", "-q", "--bare", str(beside / "git remote"))
    repository.run("git", "remote", "add", "origin", str(beside / "git remote"))
    (beside / "dvc remote").mkdir()
    repository.run("dvc", "remote", "add", "-q", "-d", "store", str(beside / "dvc remote"))
    repository.commit("project")
