"""A clone of a repository for one job, with its cache and its remotes, and dvc in it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from ptqflow.core.errors import PtqflowError
from ptqflow.core.params import PARAMS_FILE

# Where a queued experiment of DVC runs too: `inputs` looks relative paths up in the repository around it.
_FOLDER = Path(".dvc/tmp/exps/sweep")
_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded")


class CommandError(PtqflowError):
    """git or dvc has failed; `output` is what it printed."""

    def __init__(self, command: str, output: str) -> None:
        super().__init__(f"{command}: {_reason(output)}")
        self.is_full_disk = bool(_FULL_DISK.search(output))


@dataclass(frozen=True)
class Clone:
    """A DVC project in a clone."""

    path: Path

    def set_params(self, overrides: list[str]) -> None:
        """Set params as `dvc exp run --set-param` does."""
        if overrides:
            apply_overrides(self.path / PARAMS_FILE, overrides)

    def dvc(self, *arguments: str) -> str:
        """Run dvc; return what it printed.

        Raises:
            CommandError: dvc failed.
        """
        command = [sys.executable, "-m", "ptqflow.sweep.dvc_process", *arguments]
        # The stages' `python` is that of this environment, which a host's daemon need not have on its path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return run_command(command, self.path, os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"})


@contextmanager
def cloned(repository: Path, author: tuple[str, str]) -> Iterator[Clone]:
    """Make a clone of a repository's HEAD for this process; remove it at the end.

    It shares the cache and has the default remote of `repository`, with all credentials.

    Args:
        repository: the root of a git repository and DVC project.
        author: name and email of the experiment's commit.

    Raises:
        CommandError: git failed.
    """
    folder = repository / _FOLDER
    _remove_abandoned(folder)
    target = folder / str(os.getpid())
    name, email = author
    identity = ["-c", f"user.name={name}", "-c", f"user.email={email}"]
    try:
        run_command(["git", "clone", "--quiet", *identity, str(repository), str(target)], repository)
        _share_storage(repository, target)
        yield Clone(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def run_command(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command in English, without questions; return what it printed.

    Raises:
        CommandError: it failed.
    """
    finished = subprocess.run(
        command,
        cwd=folder,
        env=(environment or dict(os.environ)) | {"LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if finished.returncode:
        shown = "dvc" if command[0] == sys.executable else command[0]
        raise CommandError(shown, finished.stdout)
    return finished.stdout


def _share_storage(repository: Path, target: Path) -> None:
    with Repo(str(repository)) as original, Repo(str(target)) as clone, clone.config.edit("local") as config:
        config["core"]["remote"] = original.cloud.get_remote().name
        config["cache"]["dir"] = str(original.cache.local_cache_dir)
        config["remote"] = {name: dict(remote) for name, remote in original.config["remote"].items()}


def _remove_abandoned(folder: Path) -> None:
    """Remove the clones of processes that were killed."""
    for clone in folder.iterdir() if folder.is_dir() else ():
        try:
            os.kill(int(clone.name), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(clone, ignore_errors=True)


def _reason(output: str) -> str:
    """Return in one line why git or dvc failed: the last line of the stage, if one failed, else the last of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    stage = next((number for number, line in enumerate(lines) if line.startswith("ERROR: failed to reproduce")), 0)
    return lines[stage - 1] if stage else next(iter(lines[-1:]), "it printed nothing")
