"""Load the user's weights into a network."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ptqflow.core.errors import ModelError
from ptqflow.models.weights_file import State, WeightsFile, read_weights_file, require_plain

_SHOWN = 3  # names of each kind of mismatch, and of what is left in a file
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_AVERAGED = "n_averaged"  # the counter that torch.optim.swa_utils.AveragedModel has beside its `module.`


@dataclass(frozen=True)
class Loaded:
    """What `load_checkpoint` did with the content of a file."""

    replaces_head: bool
    """Whether the head in the file was left out, being of another number of classes."""
    changes: tuple[str, ...]
    """What was selected, renamed, tied or converted; empty for a state_dict of the network in float32."""


@dataclass(frozen=True)
class _Candidate:
    """A state_dict of the file under the names of the network."""

    place: str
    """The subscripts that select it."""
    prefix: str
    """Removed from all its names."""
    state: State
    tied: list[str]
    """Names that it lacks whose tensors share the memory of others."""
    missing: list[str]
    unexpected: list[str]

    @property
    def mismatches(self) -> int:
        return len(self.missing) + len(self.unexpected)


def load_checkpoint(model: nn.Module, path: Path, num_classes: int) -> Loaded:
    """Load the state_dict that fits a network from a file.

    - Of a checkpoint around state_dicts, the one with the network's names is loaded.
    - A prefix of all its names, as wrappers around the network add, is removed where the names then match.
    - Of tensors that share memory in the network, the file may hold one.
    - Floats of another dtype are converted to the network's.

    Raises:
        ModelError: as `read_weights_file` and `require_plain`, or several state_dicts have the network's names, or a
            tensor besides the head is missing, unexpected, of another shape, not of floats where the network's is,
            beyond the range of the network's dtype, or different from one that shares its memory in the network; the
            error lists some of each.
    """
    file, own = read_weights_file(path), model.state_dict()
    found = _select(file, [_rename(place, state, model, own) for place, state in file.states.items()])
    where = f"model.weights: {file.path}{found.place}"
    require_plain(found.state, where)
    reshaped = {name for name in found.state.keys() & own.keys() if found.state[name].shape != own[name].shape}
    head = _head_parameters(model, num_classes)
    replaces_head = bool(reshaped) and reshaped <= head
    fitting = {name: tensor for name, tensor in found.state.items() if not (replaces_head and name in head)}
    _require_fit(where, found, reshaped - head, fitting, own)
    converted = _convert(where, fitting, own)
    own.update(converted)  # keeps the version numbers of torch's modules, which safetensors does not have
    model.load_state_dict(own)
    return Loaded(replaces_head, (*_describe_selection(file, found), *_describe_conversion(fitting, converted)))


def count_outputs(model: nn.Module, path: Path, probe: int) -> int:
    """Return the number of classes of the weights in a file.

    Args:
        model: the network with `probe` classes.
        path: of a file that `load_checkpoint` reads.
        probe: an unusual number, by which the last layer is found.

    Raises:
        ModelError: as `read_weights_file`, or the network has no such layer, or the file lacks it.
    """
    file, own = read_weights_file(path), model.state_dict()
    found = _select(file, [_rename(place, state, model, own) for place, state in file.states.items()])
    head = sorted(name for name in _head_parameters(model, probe) & found.state.keys() if found.state[name].ndim)
    if not head:
        raise ModelError(
            f"model.weights: {file.path}{found.place} has no last layer of model.name by which its classes could be "
            "counted; use images with labels (data.name=image_folder)"
        )
    return len(found.state[head[0]])


def _select(file: WeightsFile, candidates: list[_Candidate]) -> _Candidate:
    """Return the state_dict with the names of the network, or else the one that has most of them."""
    fitting = [candidate.place for candidate in candidates if not candidate.mismatches]
    if len(fitting) > 1:
        command = f"import torch; torch.save(torch.load({str(file.path)!r}){fitting[0]}, 'weights.pt')"
        raise ModelError(
            f"model.weights: {file.path} holds several state_dicts with the names of model.name: {', '.join(fitting)}; "
            f"save the one to use, such as the first by `python -c {shlex.quote(command)}`, and set model.weights to it"
        )
    return min(candidates, key=lambda candidate: candidate.mismatches)


def _rename(place: str, state: State, model: nn.Module, own: State) -> _Candidate:
    """Remove the prefix with which most names are those of the network; do what torchvision does when it loads."""
    starts = Counter(name[:i] for name in state for i in _starts(name) if name[i:] in own)
    prefix = max(starts, key=lambda start: starts[start], default="")
    others = [name for name in state if not name.startswith(prefix) and name != _AVERAGED]
    ours = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    ours = _as_torchvision_loads(ours, model)
    absent = [name for name in own if name not in ours and not name.endswith("num_batches_tracked")]
    memory = _memory(own)
    present = {memory[name] for name in ours.keys() & own.keys()}
    return _Candidate(
        place,
        prefix,
        ours,
        tied=[name for name in absent if memory[name] in present],
        missing=[name for name in absent if memory[name] not in present],
        unexpected=[*others, *(name for name in ours if name not in own)],
    )


def _starts(name: str) -> Iterator[int]:
    yield 0
    yield from (dot.end() for dot in re.finditer(r"\.", name))


def _memory(state: State) -> dict[str, object]:
    """Return by name what is equal for tensors that are the same memory."""
    return {
        name: (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else name
        for name, tensor in state.items()
    }


def _require_fit(where: str, found: _Candidate, reshaped: set[str], fitting: State, own: State) -> None:
    """Raise a `ModelError` with all mismatches, of which `reshaped` are those of the shape besides the head."""
    mismatches = {
        "of another shape": [
            f"{name} {tuple(found.state[name].shape)}, not {tuple(own[name].shape)}" for name in sorted(reshaped)
        ],
        "of another type": [
            f"{name} {tensor.dtype}, not {own[name].dtype}"
            for name, tensor in fitting.items()
            if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
        ],
        "different and tied in the network": _conflicts(fitting, own),
        "missing": found.missing,
        "unexpected": found.unexpected,
    }
    if any(mismatches.values()):
        listed = "; ".join(_summarize(kind, names) for kind, names in mismatches.items() if names)
        renamed = f" without the prefix {found.prefix}" if found.prefix else ""
        raise ModelError(f"{where} does not fit model.name{renamed}: {listed}")


def _conflicts(state: State, own: State) -> list[str]:
    """Return pairs of tensors that differ in the file and share memory in the network, where one would be lost."""
    memory, first, pairs = _memory(own), dict[object, str](), []
    for name in (name for name in own if name in state):
        other = first.setdefault(memory[name], name)
        if other != name and not torch.equal(state[name].double(), state[other].double()):
            pairs.append(f"{other} and {name}")
    return pairs


def _describe_selection(file: WeightsFile, found: _Candidate) -> Iterator[str]:
    """Yield what was selected in the file and how its names became those of the network."""
    if found.place:
        left = [name for name in file.entries if not found.place.startswith(f"[{name!r}]")]
        yield f"took {found.place}" + (f", left {_first(left)}" if left else "")
    if found.prefix:
        yield f"removed the prefix {found.prefix} from its names"
    if found.tied:
        yield f"set {_first(found.tied)}, missing in the file, from the tensors tied to them"


def _convert(where: str, state: State, own: State) -> State:
    """Convert floats to the dtypes of the network.

    Raises:
        ModelError: a value is beyond the range of the network's dtype.
    """
    converted = dict(state)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            converted[name] = tensor.to(own[name].dtype)
            if not converted[name].isfinite().all():
                raise ModelError(
                    f"{where}: {name} holds {tensor.abs().max().item():.3g}, beyond the range of "
                    f"{_short(own[name].dtype)}; these weights cannot be quantized"
                )
    return converted


def _describe_conversion(before: State, after: State) -> Iterator[str]:
    pairs = Counter((_short(before[name].dtype), _short(after[name].dtype)) for name in before)
    for (old, new), count in pairs.items():
        if old != new:
            yield f"converted {count} of {len(before)} tensors from {old} to {new}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _summarize(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind}: {_first(names)}"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _as_torchvision_loads(state: State, model: nn.Module) -> State:
    """Rename the old names in published DenseNets; leave out the auxiliary heads of GoogLeNet and Inception."""
    return {
        _OLD_DENSENET.sub(r"\1\2", name): tensor
        for name, tensor in state.items()
        if getattr(model, name.partition(".")[0], model) is not None
    }


def _head_parameters(model: nn.Module, num_classes: int) -> set[str]:
    """Return the names of the parameters of the last layer with one output a class."""
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == num_classes
    ]
    return {f"{heads[-1]}.weight", f"{heads[-1]}.bias"} if heads else set()
