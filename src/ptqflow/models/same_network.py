"""Check that a network read back from disk computes what the one in memory does."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.core.errors import ModelError

_VALUES = (Tensor, np.ndarray, float, int, str, tuple, list, dict)
_TOLERANCE = 1e-4
"""Of the canonical form, as a share of the largest logit: float32 rounding over the layers of a deep network."""


def require_complete_state(model: nn.Module, other: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of a network, which must be those of another with its state_dict, to the bit.

    Args:
        model: in evaluation mode on the CPU.
        other: built again, with the state_dict of `model`.
        images: float32 (N, 3, H, W), normalized.

    Raises:
        ModelError: the logits differ, between two passes or between the networks. The error names the module, and what
            of it lies outside the state_dict.
    """
    with torch.no_grad():
        logits: Tensor = model(images)
        again, read = model(images), other(images)
    if not torch.equal(logits, again):
        raise ModelError(
            f"{_name(model)} returns other logits each time for the same images: its forward draws random numbers or "
            "changes its own state; make it deterministic in evaluation mode"
        )
    if not torch.equal(logits, read):
        raise ModelError(
            f"{_name(model)} computes something else once its weights are read back: "
            f"{_find_difference(model, other)}; register it with register_buffer, or derive it from fixed numbers"
        )
    return logits


def require_same_network(trained: nn.Module, reloaded: nn.Module, canonical: GraphModule, images: Tensor) -> None:
    """Compare the logits of a network with those after it was written and read, and with those of its canonical form.

    Args:
        trained: the network in memory, in evaluation mode on the CPU.
        reloaded: built again, with its state_dict.
        canonical: form of `reloaded`.
        images: float32 (N, C, H, W), normalized.

    Raises:
        ModelError: the logits are not finite; or they differ: after reading by a bit, in the canonical form by more
            than rounding. The error names the module, and what of it lies outside the state_dict.
    """
    with torch.no_grad():
        finite = trained(images).isfinite().all()
    if not finite:
        raise ModelError("the trained network returns logits that are not finite; lower train.lr")
    logits = require_complete_state(trained, reloaded, images)
    with torch.no_grad():
        traced = canonical(images)
    if (logits - traced).abs().max() > _TOLERANCE * logits.abs().max():
        raise ModelError(
            f"{_name(trained)} computes something else in the form that torch.fx traces, first in "
            f"{_first_divergence(trained, canonical, images)}: its forward depends on something besides its input and "
            "weights, or changes a tensor that another name refers to; write it without in-place operations on views"
        )


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _find_difference(trained: nn.Module, reloaded: nn.Module) -> str:
    """Return what of the modules differs and is not in the state_dict."""
    others = dict(reloaded.named_modules())
    saved = trained.state_dict().keys()
    for path, module in trained.named_modules():
        for name, value in _attributes(module):
            full = f"{path}.{name}".strip(".")
            if full not in saved and path in others and not _is_equal(value, getattr(others[path], name, None)):
                is_buffer = name in module._buffers
                kind = "a buffer with persistent=False" if is_buffer else f"of type {type(value).__name__}"
                return f"{full}, {kind}, is outside the state_dict"
    return "its state_dict does not hold all that it computes with"


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module.named_buffers(recurse=False)
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, _VALUES):
            yield name, value


def _is_equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return type(value) is type(other) and np.array_equal(np.asarray(value), np.asarray(other), equal_nan=True)
    try:
        return bool(value == other)
    except (ValueError, RuntimeError):  # of tensors in a list
        return repr(value) == repr(other)


def _first_divergence(trained: nn.Module, canonical: GraphModule, images: Tensor) -> str:
    outputs, found = _outputs(trained, images), _outputs(canonical, images)
    for name, output in found.items():
        expected = outputs.get(name)
        if expected is not None and not torch.allclose(expected, output, rtol=1e-3, atol=1e-4):
            return name
    return "a step outside its modules"


def _outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what each module of a network returns in its first call."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, output.clone())

    handles = [
        module.register_forward_hook(lambda _module, _input, output, name=name: keep(name, output))
        for name, module in network.named_modules()
        if name
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return outputs
