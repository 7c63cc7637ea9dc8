"""Read the user's weights from a file, without executing anything in it."""

import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ptqflow.core.errors import ModelError

State = dict[str, Tensor]

# Errors of torch.load for bytes that are no checkpoint: it interprets whatever they are.
_DAMAGES = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, struct.error)
_UNSUPPORTED = re.compile(r"Unsupported global: GLOBAL (\S+)")  # in what torch.load says
_DEPTH = 2  # of the entries that are searched; the state of an optimizer has tensors below that
_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_COUNTS = frozenset((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


@dataclass(frozen=True)
class WeightsFile:
    """The state_dicts in a file."""

    path: Path
    """Of the file itself, not of a link to it."""
    states: Mapping[str, State]
    """By the subscripts that select them: `['ema']['module']`, or an empty string if the file is a state_dict."""
    entries: tuple[str, ...]
    """Names of what a checkpoint around state_dicts holds; empty if the file is a state_dict."""


def read_weights_file(path: Path) -> WeightsFile:
    """Read a state_dict from safetensors, or those in a .pt file or a checkpoint around them.

    Raises:
        ModelError: the file is damaged, holds no state_dict, or objects other than tensors, numbers and text.
    """
    path = path.resolve()
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if is_safetensors:
        return WeightsFile(path, {"": _read_safetensors(path)}, ())
    content = _read_torch(path)
    if _is_state(content):
        return WeightsFile(path, {"": content}, ())
    if states := dict(_nested_states(content, _DEPTH)):
        return WeightsFile(path, states, tuple(map(str, content)))
    if odd := [name for name in content if not isinstance(name, str)]:
        raise ModelError(
            f"model.weights: {path} has the key {odd[0]!r}, which is no name; save model.state_dict() alone"
        )
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    raise ModelError(
        f"model.weights: {path} holds {', '.join(strange[:5])} that are no tensors; save the state_dict alone"
    )


def require_plain(state: State, where: str) -> None:
    """Require that all tensors are dense, in memory, of a supported dtype, not expanded, and all values finite.

    Raises:
        ModelError: one is not; the error starts with `where` and names it.
    """
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise ModelError(
                f"{where}: {name} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}; save a dense one "
                "of floats on the CPU"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{where}: {name} is expanded to {tuple(tensor.shape)} from {tensor.untyped_storage().nbytes()} bytes; "
                "save it contiguous: tensor.contiguous()"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"{where}: {name} holds NaN or infinity; these weights cannot be quantized")


def _is_plain(tensor: Tensor) -> bool:
    is_dense = tensor.layout == torch.strided and not tensor.is_nested
    return is_dense and tensor.device.type == "cpu" and tensor.dtype in _FLOATS | _COUNTS


def _is_state(content: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _nested_states(content: dict[Any, Any], depth: int, place: str = "") -> Iterator[tuple[str, State]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            inner = f"{place}[{name!r}]"
            if _is_state(value):
                yield inner, value
            elif depth > 1:
                yield from _nested_states(value, depth - 1, inner)


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise ModelError(
            f"model.weights: {path} is a damaged safetensors file ({error}); copy it again, or save it again: "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from None
    except KeyError as error:
        raise ModelError(
            f"model.weights: {path} holds numbers of the type {error.args[0]}; save floats of 16 bits or more"
        ) from None


def _read_torch(path: Path) -> dict[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TorchScript and of newer pickles, refused or read below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(_describe_unpickling_error(path, error)) from None
    except _DAMAGES:
        raise ModelError(
            f"model.weights: {path} is damaged or no checkpoint; save it again: torch.save(model.state_dict(), path)"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(
            f"model.weights: {path} holds {type(content).__name__}, not a state_dict; save model.state_dict() alone"
        )
    return content


def _describe_unpickling_error(path: Path, error: pickle.UnpicklingError) -> str:
    named = _UNSUPPORTED.search(str(error))
    if named is None:
        return (
            f"model.weights: {path} holds more than tensors, or is no checkpoint; nothing in it was executed; save the "
            "weights alone: torch.save(model.state_dict(), path)"
        )
    return (
        f"model.weights: {path} holds more than tensors, numbers and text ({named[1]}); nothing in it was executed; "
        "save the weights alone: torch.save(model.state_dict(), 'weights.pt'), or from a checkpoint that you trust "
        f"torch.save(torch.load({str(path)!r}, weights_only=False)['state_dict'], 'weights.pt')"
    )
