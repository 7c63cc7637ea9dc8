"""Remove what is damaged, so that the next `dvc repro` makes it again.

DVC takes an object of its cache for what its name says, and an output for unchanged while its size and time are, so
that neither `dvc repro` nor `dvc repro --force` replaces a damaged object.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ptqflow.core.errors import ArtifactError
from ptqflow.core.outputs import LOCK, hash_output, read_outputs
from ptqflow.core.paths import INPUTS

_LOCKS = (LOCK, Path("pipelines/benchmark/dvc.lock"), Path("pipelines/spread/dvc.lock"))


def repair() -> Iterator[str]:
    """Remove damaged objects of DVC's cache, damaged outputs, and what killed runs left beside outputs and in .dvc/tmp.

    Yields:
        The path of each that was removed, and why.

    Raises:
        ArtifactError: the working directory is not the root of a DVC project, or a `dvc` is running in it.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    if not Path(".dvc").is_dir():
        raise ArtifactError("this is not the root of a DVC project: run it in the folder of the repository's dvc.yaml")
    try:
        with Repo(".") as repository, repository.lock:
            yield from _repair_lock(Path(repository.tmp_dir) / "rwlock")
            yield from _repair_cache(Path(repository.cache.local.path))
            yield from _repair_outputs()
    except NotDvcRepoError as error:
        raise ArtifactError(str(error)) from None
    except LockError:
        raise ArtifactError("dvc is running in this repository; run it again when that has ended") from None


def _repair_lock(path: Path) -> Iterator[str]:
    """Remove DVC's list of outputs in use if it was killed while it wrote it: it reads nothing else before."""
    if path.exists() and not _is_json(path.read_bytes()):
        path.unlink()
        yield f"{os.path.relpath(path)}: a killed dvc left it unfinished"


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _repair_cache(cache: Path) -> Iterator[str]:
    for file in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        if not file.is_file():
            _remove(file)
            yield f"{file}: it is no file"
        elif hash_output(file) != file.parent.name + file.name.removesuffix(".dir"):
            file.unlink()
            yield f"{file}: its content is not that of its name"


def _repair_outputs() -> Iterator[str]:
    for output in (output for lock in _LOCKS for output in read_outputs(lock)):
        partial = output.path.with_name(f".{output.path.name}.partial")
        if partial.exists():
            _remove(partial)
            yield f"{partial}: a killed run left it"
        is_there = output.path.exists() or output.path.is_symlink()
        if INPUTS not in output.path.parents and is_there and not output.is_intact():
            _remove(output.path)
            yield f"{output.path}: not what `{output.stage}` wrote"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
