"""Make the links in `inputs/`."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ptqflow.core.artifacts import write_text
from ptqflow.core.errors import DataError, ModelError
from ptqflow.core.inputs import CODE, DATA, WEIGHTS
from ptqflow.fetch.params import DataParams
from ptqflow.models.params import ModelParams


def link_inputs(data: DataParams, model: ModelParams) -> None:
    """Link `data.path`, `model.weights` and the module of `model.name`.

    Raises:
        DataError: `data.path` does not exist, or holds what DVC cannot hash or leaves out.
        ModelError: `model.weights` is neither a file nor published weights of the architecture, or there is no such
            module.
    """
    data_path = _find_data(data.path) if data.path else None
    weights = _find_weights(model) if model.weights else None
    code = _find_module(model.name.partition(":")[0]) if model.is_user_code else None
    _link(DATA, data_path)
    _link(WEIGHTS, weights)
    _link(CODE, code)


def _link(link: Path, target: Path | None) -> None:
    if target is None:
        write_text(link, "null\n")
        return
    link.parent.mkdir(exist_ok=True)
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(_link_text(target.resolve(), link.parent.resolve()))
    partial.replace(link)


def _link_text(target: Path, folder: Path) -> str:
    """Return a relative path where the target lies in the repository, which may be moved, else an absolute one."""
    return os.path.relpath(target, folder) if target.is_relative_to(Path.cwd()) else str(target)


def _roots() -> list[Path]:
    """Return where a relative path is looked for: here, and for a queued experiment in the repository it came from."""
    here = Path.cwd()
    parts = here.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return [here, Path(*parts[:i])]
    return [here]


def _find(path: str) -> Path | None:
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # ~name, where there is no such user
        return None
    return next((root / expanded for root in _roots() if (root / expanded).exists()), None)


def _find_data(path: str) -> Path:
    found = _find(path)
    if found is None:
        raise DataError(
            f"data.path: {path} does not exist (looked in {_roots()[-1]}); give a path to a file or folder that does"
        )
    if found.is_dir():
        _require_hashable(found)
    elif not found.is_file():
        raise DataError(f"data.path: {found} is neither a file nor a folder; give a folder or an archive")
    return found


def _require_hashable(root: Path) -> None:
    """Refuse what DVC fails on without naming the key, waits for without end, or leaves out while `fetch` reads it.

    Links to folders, which DVC leaves out too, are for `fetch` to name.
    """
    for entry in _entries(str(root)):
        if entry.name == ".dvcignore" or (entry.name == ".dvc" and Path(entry.path).parent != root):
            raise DataError(
                f"data.path: {entry.path} keeps files beside it from DVC; remove it, or set data.path to a folder "
                "without one"
            )
        if entry.is_symlink() and not Path(entry.path).exists():
            raise DataError(f"data.path: {entry.path} is a link that leads nowhere; mend or remove it")
        if not (entry.is_file() or entry.is_dir()):
            raise DataError(f"data.path: {entry.path} is neither a file nor a folder; remove it")


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    """Yield all below a folder but what is in folders that DVC leaves out, without asking the system of each."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False) and entry.name not in (".git", ".hg", ".dvc"):
                yield from _entries(entry.path)


def _find_weights(model: ModelParams) -> Path:
    assert model.weights is not None
    if found := _find(model.weights):
        if not found.is_file():
            raise ModelError(f"model.weights: {found} is not a file; give a .pt or .safetensors file")
        return found
    if model.is_user_code or "/" in model.weights or "." in model.weights:
        raise ModelError(
            f"model.weights: {model.weights} does not exist (looked in {_roots()[-1]}); give a .pt or .safetensors file"
            + ("" if model.is_user_code else f", or the name of published weights for {model.name}")
        )
    from ptqflow.models.torchvision_weights import download_weights

    return download_weights(model.name, model.weights)


def _find_module(name: str) -> Path:
    sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.has_location:
        raise ModelError(f"model.name: there is no module {name!r} in {Path.cwd()} or among the installed packages")
    return Path(spec.origin)
