"""Checkpoints, from which a killed training resumes."""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ptqflow.core.artifacts import write_bytes
from ptqflow.core.errors import PtqflowWarning, describe_os_error

_NAME = re.compile(r"\d{6,18}-[0-9a-f]{64}\.safetensors")
_KEPT = 2  # newest ones, so that a truncated one costs little


@contextmanager
def or_warn(loss: str) -> Iterator[None]:
    """Turn an `OSError`, such as of a full disk, into a warning that names what is lost; training continues."""
    try:
        yield
    except OSError as error:
        problem = f"{loss}; training continues: {describe_os_error(error)}"
        warnings.warn(PtqflowWarning(problem), stacklevel=1)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    """JSON of what is not a tensor."""


class Checkpoints:
    """The checkpoints of one training, in a folder named by the hash of all that determines its result.

    A file's name holds the hash of its bytes, so that it appears whole by one rename, and a truncated or edited one is
    recognized.
    """

    def __init__(self, root: Path, inputs: Mapping[str, Any], every: int = 1) -> None:
        """Take all that determines the result, as JSON, and how many epochs lie between checkpoints, 0 for none."""
        self._key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._every = every
        self.folder = root / self._key[:16]

    def are_due(self, epoch: int) -> bool:
        """Return whether to write a checkpoint after an epoch."""
        return self._every > 0 and epoch % self._every == 0

    def save(self, epoch: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write the checkpoint of an epoch and delete all but the newest two; an `OSError` becomes a warning."""
        tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        content = json.dumps({"key": self._key, "record": record}, sort_keys=True)
        data = safetensors.torch.save(tensors, {"content": content})  # one entry: of several, the order changes
        with or_warn(f"no checkpoint after epoch {epoch}"):
            write_bytes(self.folder / f"{epoch:06d}-{hashlib.sha256(data).hexdigest()}.safetensors", data)
            older = [file for file in self._files() if _epoch(file) <= epoch]  # later ones could not be read
            for old in older[_KEPT:]:
                old.unlink()

    def newest(self) -> Checkpoint | None:
        """Return the newest valid checkpoint and print its epoch, None without one; warn of invalid ones."""
        for file in self._files():
            try:
                found = self._read(file)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                warnings.warn(PtqflowWarning(f"{file} is skipped: {error}"), stacklevel=1)
            else:
                print(f"resuming after epoch {_epoch(file)} from {file}", flush=True)
                return found
        return None

    def remove(self) -> None:
        """Delete all checkpoints of this training."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # those of other trainings are left
            self.folder.parent.rmdir()

    def _files(self) -> list[Path]:
        names = (file for file in self.folder.glob("*.safetensors") if _NAME.fullmatch(file.name))
        return sorted(names, key=_epoch, reverse=True)

    def _read(self, file: Path) -> Checkpoint:
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.stem.partition("-")[2]:
                raise ValueError("it is truncated or was changed")
        with safe_open(file, "pt") as opened:
            content = json.loads(opened.metadata()["content"])
            if content["key"] != self._key:
                raise ValueError("it is of another training")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        return Checkpoint(tensors, content["record"])


def _epoch(file: Path) -> int:
    return int(file.name.partition("-")[0])
