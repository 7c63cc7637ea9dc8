"""Load the user's weights."""

import pickle
import re
import struct
import warnings
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ptqflow.core.errors import ModelError

State = dict[str, Tensor]

# Errors of torch.load for bytes that are no checkpoint: it interprets whatever they are.
_DAMAGES = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, struct.error)
_SHOWN = 3  # names of each kind of mismatch
_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_COUNTS = frozenset((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_checkpoint(path: Path) -> State:
    """Read a state_dict from safetensors or from a .pt file, without executing anything in it.

    Raises:
        ModelError: the file is damaged or holds something else, a tensor is not dense or of an unsupported dtype, or a
            value is not finite.
    """
    where = f"model.weights: {path.resolve()}"
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    state = _read_safetensors(path, where) if is_safetensors else _read_torch(path, where)
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise ModelError(
                f"{where}: {name} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}; save a dense one "
                "of floats on the CPU"
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelError(f"{where}: {name} holds NaN or infinity; these weights cannot be quantized")
    return state


def load_checkpoint(model: nn.Module, path: Path, num_classes: int) -> bool:
    """Load a file with a state_dict; return whether its head was left out, being of another number of classes.

    Raises:
        ModelError: as `read_checkpoint`, or a tensor besides the head is missing, unexpected, of another shape, or not
            of floats where the network's is; the error lists some of each.
    """
    state, own = _as_torchvision_loads(read_checkpoint(path), model), model.state_dict()
    reshaped = {name for name in state.keys() & own.keys() if state[name].shape != own[name].shape}
    head = _head_parameters(model, num_classes)
    replaces_head = bool(reshaped) and reshaped <= head
    fitting = {name: tensor for name, tensor in state.items() if not (replaces_head and name in head)}
    mismatches = {
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in sorted(reshaped - head)
        ],
        "of another type": [
            f"{name} {tensor.dtype}, not {own[name].dtype}"
            for name, tensor in fitting.items()
            if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
        ],
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in own],
    }
    if any(mismatches.values()):
        listed = "; ".join(_summarize(kind, names) for kind, names in mismatches.items() if names)
        wrapped = next(filter(None, map(_WRAPPERS.match, mismatches["unexpected"])), None)
        advice = f"; strip {wrapped[0]} from the names, which a wrapper around the model put there" if wrapped else ""
        raise ModelError(f"model.weights: {path.resolve()} does not fit model.name: {listed}{advice}")
    own.update(fitting)  # keeps the version numbers of torch's modules, which safetensors does not have
    model.load_state_dict(own)
    return replaces_head


def _is_plain(tensor: Tensor) -> bool:
    is_dense = tensor.layout == torch.strided and not tensor.is_nested
    return is_dense and tensor.device.type == "cpu" and tensor.dtype in _FLOATS | _COUNTS


def _summarize(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"


def _as_torchvision_loads(state: State, model: nn.Module) -> State:
    """Rename the old names in published DenseNets; leave out the auxiliary heads of GoogLeNet and Inception."""
    return {
        _OLD_DENSENET.sub(r"\1\2", name): tensor
        for name, tensor in state.items()
        if getattr(model, name.partition(".")[0], model) is not None
    }


def _read_safetensors(path: Path, where: str) -> State:
    try:
        return safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise ModelError(
            f"{where} is a damaged safetensors file ({error}); copy it again, or save it again: "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from None
    except KeyError as error:
        raise ModelError(f"{where} holds numbers of the type {error.args[0]}; save floats of 16 bits or more") from None


def _read_torch(path: Path, where: str) -> State:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TorchScript and of newer pickles, refused or read below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{where} holds more than tensors, or is no checkpoint; nothing in it was executed; "
            "save the weights alone: torch.save(model.state_dict(), path)"
        ) from None
    except _DAMAGES:
        raise ModelError(
            f"{where} is damaged or no checkpoint; save it again: torch.save(model.state_dict(), path)"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(f"{where} holds {type(content).__name__}, not a state_dict; save model.state_dict() alone")
    if odd := [name for name in content if not isinstance(name, str)]:
        raise ModelError(f"{where} has the key {odd[0]!r}, which is no name; save model.state_dict() alone")
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"{where} holds {', '.join(strange[:5])} that are no tensors; save the state_dict alone")
    return content


def _head_parameters(model: nn.Module, num_classes: int) -> set[str]:
    """Return the names of the parameters of the last layer with one output a class."""
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == num_classes
    ]
    return {f"{heads[-1]}.weight", f"{heads[-1]}.bias"} if heads else set()
