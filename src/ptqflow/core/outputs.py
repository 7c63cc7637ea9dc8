"""Outputs of the pipeline compared with dvc.lock, which DVC itself trusts to be unchanged while size and time are."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ptqflow.core.artifacts import REMEDY
from ptqflow.core.errors import ArtifactError

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
_MOST = 1 << 26
"""Bytes of an output, at most, that a stage compares before it starts: 0.1 s."""


@dataclass(frozen=True)
class LockedFile:
    """A file or directory that a stage read or wrote, in dvc.lock."""

    path: Path
    stage: str
    """That read or wrote it."""
    md5: str
    """As DVC computes it; that of a directory ends in `.dir`."""
    size: int
    """In bytes."""

    def is_intact(self) -> bool:
        """Return whether it is there, with the bytes that the stage wrote."""
        return (self.path.is_file() or self.path.is_dir()) and hash_output(self.path) == self.md5


def hash_output(path: Path) -> str:
    """Return the hash of a file or directory, as DVC computes it."""
    if not path.is_dir():
        return _md5(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _md5(file), "relpath": name} for name, file in files]
    return f"{hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest()}.dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_outputs(lock: Path) -> list[LockedFile]:
    """Return what the stages of a dvc.lock wrote when they ran last, empty without the file.

    Raises:
        ArtifactError: it is damaged.
    """
    return _files(stages_of(lock.read_text(encoding="utf-8"), lock), "outs") if lock.exists() else []


def is_current(stage: str) -> bool:
    """Return whether a stage read what the others wrote last, by dvc.lock: its outputs may be of an earlier network.

    It is True without dvc.lock, as where scripts are run by hand.

    Raises:
        ArtifactError: dvc.lock is damaged.
    """
    if not LOCK.exists():
        return True
    stages = stages_of(LOCK.read_text(encoding="utf-8"))
    written = {output.path: output.md5 for output in _files(stages, "outs")}
    read = [dep for dep in _files(stages, "deps") if dep.stage == stage]
    return stage in stages and all(written.get(dep.path, dep.md5) == dep.md5 for dep in read)


def stages_of(text: str, path: Path = LOCK) -> dict[str, Any]:
    """Return the stages of the text of a dvc.lock, by name.

    Raises:
        ArtifactError: it is not what DVC writes; the error names `path`.
    """
    try:
        stages: dict[str, Any] = YAML(typ="safe").load(text)["stages"]
        _files(stages, "deps")
        _files(stages, "outs")
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError):
        raise ArtifactError(f"{path} is damaged: restore it with `git checkout {path}`, then run `dvc repro`") from None
    return stages


def _files(stages: Mapping[str, Any], key: Literal["deps", "outs"]) -> list[LockedFile]:
    return [
        LockedFile(Path(file["path"]), name, file["md5"], file["size"])
        for name, stage in stages.items()
        for file in stage.get(key, [])
    ]


def require_intact_deps(stage: str) -> None:
    """Require that the small files that a stage reads are what other stages wrote; images have digests of their own.

    Raises:
        ArtifactError: an output is damaged or was changed by hand; the error names it.
    """
    if not (PIPELINE.exists() and LOCK.exists()):
        return
    deps = set(_deps(stage))
    for output in read_outputs(LOCK):
        if output.path in deps and output.size <= _MOST and output.path.exists() and not output.is_intact():
            raise ArtifactError(f"{output.path} is not what `{output.stage}` wrote: it is damaged; {REMEDY}")


def _deps(stage: str) -> Iterator[Path]:
    name, _, item = stage.partition("@")
    entry = _load(PIPELINE).get("stages", {}).get(name, {})
    for dep in entry.get("do", entry).get("deps", []):
        yield Path(dep.replace("${item}", item))


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return loaded
