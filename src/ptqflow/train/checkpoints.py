"""Where a training that was killed goes on from."""

import hashlib
import json
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

_KEPT = 2  # newest ones, so that a torn one costs little


@contextmanager
def or_go_on(loss: str) -> Iterator[None]:
    """Warn of an `OSError`, such as of a full disk, and of what is lost by it, instead of ending the training."""
    try:
        yield
    except OSError as error:
        problem = f"{loss}, training goes on: {describe_os_error(error)}"
        warnings.warn(PtqflowWarning(problem), stacklevel=1)


@dataclass(frozen=True)
class Checkpoint:
    """A training behind an epoch."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    """What is no tensor: JSON."""


class Checkpoints:
    """The checkpoints of one training, in a folder named by the hash of all that decides how it ends.

    A file's name holds the hash of its bytes, so that one move puts it in its place whole, and one that was torn or
    changed is known.
    """

    def __init__(self, root: Path, inputs: Mapping[str, Any], every: int = 1) -> None:
        """`inputs` is JSON; a checkpoint is due every `every` epochs, 0 for none."""
        self._key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._every = every
        self.folder = root / self._key[:16]

    def are_due(self, epoch: int) -> bool:
        """Return whether a checkpoint is to be written after an epoch."""
        return self._every > 0 and epoch % self._every == 0

    def save(self, epoch: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write a checkpoint behind an epoch; where that fails, warn and let the training go on."""
        tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        content = json.dumps({"key": self._key, "record": record}, sort_keys=True)
        data = safetensors.torch.save(tensors, {"content": content})  # one entry: of several, the order changes
        with or_go_on(f"no checkpoint behind epoch {epoch}"):
            write_bytes(self.folder / f"{epoch:06d}-{hashlib.sha256(data).hexdigest()}.safetensors", data)
            behind = [file for file in self._files() if _epoch(file) <= epoch]  # of later ones, none could be read
            for old in behind[_KEPT:]:
                old.unlink()

    def newest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole and of this training, and say so; warn of those that are not."""
        for file in self._files():
            try:
                found = self._read(file)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                warnings.warn(PtqflowWarning(f"{file} is left alone: {error}"), stacklevel=1)
            else:
                print(f"training goes on behind epoch {_epoch(file)}, from {file}", flush=True)
                return found
        return None

    def remove(self) -> None:
        """Delete them: the training has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # of other trainings there are some left
            self.folder.parent.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*.safetensors"), key=_epoch, reverse=True)

    def _read(self, file: Path) -> Checkpoint:
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.stem.partition("-")[2]:
                raise ValueError("it is torn, or was changed")
        with safe_open(file, "pt") as opened:
            content = json.loads(opened.metadata()["content"])
            if content["key"] != self._key:
                raise ValueError("it is of another training")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        return Checkpoint(tensors, content["record"])


def _epoch(file: Path) -> int:
    return int(file.name.partition("-")[0])
