"""The files in which users have weights, as torch and safetensors write them."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

State = dict[str, Tensor]
Save = Callable[[State, Path], None]


def save_zip(state: State, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: State, path: Path) -> None:
    safetensors.torch.save_file(state, path)
