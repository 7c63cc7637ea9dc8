"""What git has of a project, which may lie in a subdirectory of its repository."""

import os
import subprocess
from pathlib import Path


def git(project: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run git in English, to its end, well or not."""
    return subprocess.run(
        ["git", "-C", str(project), *command],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )


def committed(project: Path, commit: str, path: Path) -> str | None:
    """Return the text of a file of a project at a commit, or None where it has none."""
    shown = git(project, "show", f"{commit}:./{path}")
    return shown.stdout if shown.returncode == 0 else None
