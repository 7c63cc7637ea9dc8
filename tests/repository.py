"""A repository with a pipeline small enough to run in seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PIPELINES = ("dvc.yaml", "pipelines/benchmark/dvc.yaml", "pipelines/spread/pipeline.yaml")


def stages_of(pipeline: str) -> dict[str, dict[str, Any]]:
    """Return the stages of a pipeline's file."""
    stages: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / pipeline)["stages"]
    return {name: stage for key, entry in stages.items() for name, stage in _each(key, entry)}


def _each(name: str, stage: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a stage, or those that `foreach` makes of it, by the names that DVC calls them."""
    if "foreach" not in stage:
        yield name, stage
    for item in stage.get("foreach", ()):
        text = json.dumps(stage["do"]).replace("${item}", item)
        yield f"{name}@{item}", json.loads(text)


STAGES = stages_of("dvc.yaml")

TINY_MODEL = """
from torch import nn


def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, num_classes),
    )
"""

TINY_PARAMS = {
    "data": {"image_size": 16, "limit": 200},
    "model": {"name": "tiny:build"},
    "train": {"epochs": 1},
    "calib": {"batches": 2, "batch_size": 8},
    "export": {"margin": 0.02},  # it is hardly trained: many images are near ties, which fall by rounding
}


def outputs_of(stage: str) -> list[str]:
    """Return the paths that dvc.yaml says a stage writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    status: int
    output: str

    @property
    def ran(self) -> list[str]:
        """Stages that ran, in order."""
        return re.findall(r"^Running stage '([\w@]+)'", self.output, re.MULTILINE)


@dataclass(frozen=True)
class Repository:
    """A git and DVC repository in a folder with a space in its name."""

    path: Path

    @contextmanager
    def running(self, *command: str, output: IO[str] | int = subprocess.DEVNULL) -> Iterator["subprocess.Popen[str]"]:
        """Run a command as `start` does; at the end what is left is killed."""
        process = self.start(*command, output=output)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, *command: str, output: IO[str] | int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        """Start a command in a session of its own, with this environment's tools first on the path.

        `output` is a file, for a pipe that nobody empties would stop the command.
        """
        home = self.path.parent
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=environment,
            text=True,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def try_run(self, *command: str) -> Result:
        """Run a command to its end, well or not."""
        with TemporaryFile("w+") as output, self.running(*command, output=output) as process:
            status = process.wait(timeout=900)
            output.seek(0)
            return Result(status, output.read())

    def run(self, *command: str) -> Result:
        """Run a command that must end well."""
        result = self.try_run(*command)
        assert result.status == 0, result.output
        return result

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def set_params(self, changes: dict[str, dict[str, object]]) -> None:
        """Change params.yaml by hand, as a user with an editor."""
        yaml, file = YAML(), self.path / "params.yaml"
        params = yaml.load(file)
        for section, values in changes.items():
            params[section].update(values)
        yaml.dump(params, file)

    def read(self, name: str) -> str:
        """Return the text of a file."""
        return (self.path / name).read_text()

    def contents(self, *names: str) -> dict[str, bytes]:
        """Return the bytes of these files and of all files below these folders."""
        paths = [path for name in names for path in (self.path / name, *(self.path / name).rglob("*"))]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in paths if path.is_file()}


def copy_tracked(target: Path) -> None:
    """Copy what git tracks or would track from the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
