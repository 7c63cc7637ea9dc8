"""Write a pipeline into a git repository, and bring it to the installed version."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ptqflow.core.artifacts import write_text
from ptqflow.core.errors import ArtifactError, describe_failure
from ptqflow.core.git import git
from ptqflow.project.code_file import as_text, hash_text, installed_code, read_code, write_code
from ptqflow.project.template import CODE_FILE, FILES, ignored_by_dvc, ignored_by_git, pipeline, workflow


def init(folder: Path) -> list[str]:
    """Write a pipeline into a folder of a git repository; return what was done, a line each.

    The folder becomes a DVC project of its own, unless it is one. Files that exist stay, and .gitignore and .dvcignore
    are extended by the lines that they lack. The workflow and its script are for the whole repository: the first
    pipeline brings them.

    Raises:
        ArtifactError: the folder is in no git repository, git has changes that are not staged or committed, a file that
            would be written exists, or DVC fails; what was written is removed.
        OSError: the disk is full, or a folder cannot be written; what was written is removed.
    """
    root = _git_root(folder)
    files = _files(folder)
    existing = [path for path in files if path.exists() or path.is_symlink()]
    if existing:
        raise ArtifactError(
            f"{', '.join(str(path) for path in existing)} exist{'s' * (len(existing) == 1)}, and nothing was written: "
            "run `ptqflow init FOLDER` with another folder, which becomes a pipeline of its own"
        )
    _require_clean(root)
    with ExitStack() as undo:
        done = _write_pipeline(folder, root, files, undo)
        undo.pop_all()
    return done


def _write_pipeline(folder: Path, root: Path, files: Mapping[Path, str], undo: ExitStack) -> list[str]:
    """Write all files; `undo`, when it is closed, leaves none of them, as after a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".dvc").is_dir():
        for path in (folder / ".dvcignore", folder / ".dvc"):
            undo.callback(_remove, root, path)
        _init_dvc(folder, is_root=folder.resolve() == root)
    done = [_write(path, text, undo) for path, text in files.items()]
    done += _extend(folder / ".gitignore", ignored_by_git(), undo)
    done += _extend(folder / ".dvcignore", ignored_by_dvc(), undo)
    return done + _add_checks(root, undo)


def _remove(root: Path, path: Path) -> None:
    """Remove what `dvc init` made, from git's index, too."""
    git(root, "reset", "--quiet", "--", str(path.resolve()))
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def upgrade(folder: Path) -> list[str]:
    """Write the code file of the installed package, and dvc.yaml unless it was edited; return what was done.

    Raises:
        ArtifactError: the folder holds no pipeline of `init`.
    """
    old, new = _recorded(folder), installed_code()
    changed = [name for name in new if name not in ("version", "pipeline") and new[name] != old.get(name)]
    done = [f"{folder / CODE_FILE}: ptqflow {new['version']}; dvc repro reruns {', '.join(changed) or 'nothing'}"]
    if new["pipeline"] != old.get("pipeline"):
        file = folder / "dvc.yaml"
        if hash_text(file.read_text(encoding="utf-8")) == old.get("pipeline"):
            write_text(file, pipeline())
            done.append(f"{file}: replaced by that of ptqflow {new['version']}")
        else:
            write_text(folder / "dvc.yaml.new", pipeline())
            done.append(f"{file}: edited here, so kept; merge {folder / 'dvc.yaml.new'} into it by hand")
    write_code(folder, new)
    return done


def _recorded(folder: Path) -> dict[str, str]:
    """Return the code file of a pipeline, empty where it is missing or damaged: `upgrade` writes it again."""
    file = folder / "dvc.yaml"
    if not (folder / CODE_FILE).exists() and not (file.exists() and str(CODE_FILE) in file.read_text(encoding="utf-8")):
        raise ArtifactError(f"{folder.resolve()} has no pipeline of `ptqflow init`: run that first")
    try:
        return read_code(folder)
    except ArtifactError:
        return {}


def _files(folder: Path) -> dict[Path, str]:
    plots = {
        folder / ".dvc" / "plots" / file.name: file.read_text(encoding="utf-8")
        for file in sorted((FILES / "plots").glob("*.json"))
    }
    return {
        folder / "dvc.yaml": pipeline(),
        folder / "params.yaml": (FILES / "params.yaml").read_text(encoding="utf-8"),
        folder / CODE_FILE: as_text(installed_code()),
        **plots,
    }


def _add_checks(root: Path, undo: ExitStack) -> list[str]:
    done = []
    script = root / ".ci" / "pull_request.sh"
    checks = {script: (FILES / "pull_request.sh").read_text(encoding="utf-8")}
    checks[root / ".github" / "workflows" / "ptqflow.yaml"] = workflow()
    for path, text in checks.items():
        if path.exists():
            done.append(f"{path}: exists, kept")
            continue
        done.append(_write(path, text, undo))
    return done


def _write(path: Path, text: str, undo: ExitStack) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    undo.callback(path.unlink, missing_ok=True)
    write_text(path, text)
    return f"{path}: written"


def _extend(file: Path, lines: list[str], undo: ExitStack) -> list[str]:
    existed = file.exists()
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if not missing:
        return []
    undo.callback(*((write_text, file, text) if existed else (file.unlink, True)))
    end = "" if not text or text.endswith("\n") else "\n"
    write_text(file, text + end + "\n".join(missing) + "\n")
    return [f"{file}: {len(missing)} lines added"]


def _git_root(folder: Path) -> Path:
    above = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.is_dir())
    asked = git(above, "rev-parse", "--show-toplevel")
    if asked.returncode:
        raise ArtifactError(f"{folder} is in no git repository: run `git init` first, or run this in a clone")
    return Path(asked.stdout.removesuffix("\n"))


def _require_clean(root: Path) -> None:
    changed = git(root, "diff", "--name-only").stdout.splitlines()
    if changed:
        raise ArtifactError(
            f"{root} has changes that git has not staged, such as {changed[0]}: commit or stash them first, so that "
            "`git diff` shows what init wrote"
        )


def _init_dvc(folder: Path, is_root: bool) -> None:
    command = [sys.executable, "-m", "dvc", "init", *([] if is_root else ["--subdir"])]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = describe_failure(result.returncode, "\n".join(errors) or result.stderr)
        raise ArtifactError(f"`dvc init` in {folder}: {reason}")
