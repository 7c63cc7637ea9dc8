"""Create the links in `inputs/`."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from ptqflow.core.artifacts import write_text
from ptqflow.core.errors import DataError, ModelError
from ptqflow.core.inputs import CODE, DATA, WEIGHTS
from ptqflow.core.paths import DATASET, LOGITS, PREDICTIONS
from ptqflow.fetch.params import DataParams
from ptqflow.models.params import ModelParams


def link_inputs(data: DataParams, model: ModelParams) -> None:
    """Link `data.path`, `model.weights` and the module of `model.name`.

    Raises:
        DataError: `data.path` does not exist, holds what DVC cannot hash or leaves out, or overlaps with what the
            pipeline writes.
        ModelError: `model.weights` is neither a file nor published weights of the architecture, or there is no such
            module, or its package cannot be imported.
    """
    data_path = _find_data(data.path) if data.path else None
    weights = find_weights(model) if model.weights else None
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
    """Return a relative path if the target is in the repository, which may be moved, else an absolute one."""
    return os.path.relpath(target, folder) if target.is_relative_to(Path.cwd()) else str(target)


def _roots() -> list[Path]:
    """Return where a relative path is looked up: here, and for a queued experiment in the repository it came from."""
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
            f"data.path: {path} does not exist (looked in {_roots()[-1]}); set it to a file or folder that does; in a "
            "clone, `dvc repro --pull` takes what was pushed"
        )
    _require_apart_from_outputs(found)
    if found.is_dir():
        _require_hashable(found)
    elif not found.is_file():
        raise DataError(f"data.path: {found} is neither a file nor a folder; set it to a folder or an archive")
    return found


def _require_apart_from_outputs(found: Path) -> None:
    """Refuse a folder that holds what the stages write, or is inside it: the next run would read that as images."""
    for output in (root / output for root in _roots() for output in (DATASET, LOGITS, PREDICTIONS)):
        ours, theirs = output.resolve(), found.resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise DataError(
                f"data.path: {found} overlaps with {output}, which the pipeline writes; move the images to a folder of "
                "their own, such as data/images"
            )


def _require_hashable(root: Path) -> None:
    """Refuse what makes DVC fail without naming the key or wait forever, or what DVC leaves out while `fetch` reads it.

    Links to folders, which DVC leaves out too, are reported by `fetch`.
    """
    for entry in _entries(str(root)):
        if entry.name == ".dvcignore" or (entry.name == ".dvc" and Path(entry.path).parent != root):
            raise DataError(
                f"data.path: {entry.path} hides files in its folder from DVC; remove it, or set data.path to a folder "
                "without one"
            )
        if entry.is_symlink() and not Path(entry.path).exists():
            raise DataError(f"data.path: {entry.path} is a link to a file that does not exist; fix or remove it")
        if not (entry.is_file() or entry.is_dir()):
            raise DataError(f"data.path: {entry.path} is neither a file nor a folder; remove it")


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    """Yield all entries below a folder, except in folders that DVC leaves out, without a system call for each."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False) and entry.name not in (".git", ".hg", ".dvc"):
                yield from _entries(entry.path)


def find_weights(model: ModelParams) -> Path:
    """Return the file of `model.weights`, which is set; published weights are downloaded where they are not there yet.

    Raises:
        ModelError: there are no such file and no such weights, or the download fails.
    """
    assert model.weights is not None
    if found := _find(model.weights):
        if not found.is_file():
            raise ModelError(f"model.weights: {found} is not a file; set it to a .pt or .safetensors file")
        return found
    if model.is_user_code or "/" in model.weights or "." in model.weights:
        raise ModelError(
            f"model.weights: {model.weights} does not exist (looked in {_roots()[-1]}); set it to a .pt or "
            ".safetensors file" + ("" if model.is_user_code else f", or the name of published weights for {model.name}")
        )
    if model.is_timm:
        from ptqflow.models.timm_networks import download_timm_weights

        return download_timm_weights(model.name, model.weights)
    from ptqflow.models.torchvision_weights import download_weights

    return download_weights(model.name, model.weights)


def _find_module(name: str) -> Path:
    sys.path.insert(0, str(Path.cwd()))
    spec = _find_spec(name)
    if spec is None or spec.origin is None or not spec.has_location:
        raise ModelError(f"model.name: there is no module {name!r} in {Path.cwd()} or among the installed packages")
    return Path(spec.origin)


def _find_spec(name: str) -> ModuleSpec | None:
    if not name or name.startswith("."):
        return None
    try:
        return importlib.util.find_spec(name)
    except (Exception, SystemExit) as error:  # it imports the packages around the module, which may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            return None
        raise ModelError(f"model.name: {name} cannot be imported ({type(error).__name__}: {error})") from error
