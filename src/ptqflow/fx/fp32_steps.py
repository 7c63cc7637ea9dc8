"""Which steps of a network stay FP32: what is asked for, what torch computes wrongly, and what would gain nothing."""

import operator
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.ao.quantization.backend_config import get_native_backend_config
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from ptqflow.core.engines import Engine
from ptqflow.fx.fp32_modules import is_kept_node
from ptqflow.fx.graph import is_weighted
from ptqflow.models.nodes import function_name

MISCOMPUTED = (nn.PReLU, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""What torch 2.13 computes wrongly on INT8: PReLU with slopes below 1, transposed convolutions on some engines."""
WRONG = "torch's INT8 kernel for it is wrong"
_FLOAT_INSIDE = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.Softmax)
_ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Mish, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink),
)
_ACTIVATION_FUNCTIONS = (
    *(F.elu, F.hardsigmoid, F.hardswish, F.sigmoid, F.tanh, torch.sigmoid, torch.tanh, "sigmoid", "tanh"),
)
_FLOAT_INSIDE_FUNCTIONS = (F.layer_norm, F.group_norm, F.instance_norm, F.softmax, torch.softmax, "softmax")
_WEIGHTED_FUNCTIONS = (
    *(F.conv1d, F.conv2d, F.conv3d, F.linear),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
"""Functions that the canonical form makes modules of where their weights are constant."""
_PRODUCTS = (operator.mul, torch.mul, torch.matmul, operator.matmul)
_SCALAR = (operator.add, operator.mul, torch.add, torch.mul)
_PASSIVE = frozenset(("getitem", "chunk", "split", "unbind", "expand", "movedim", "swapaxes", "flatten", "unflatten"))
_PASSIVE_MODULES = (nn.Flatten, nn.Unflatten)
_SIZES = frozenset(("size", "dim", "getattr"))


def fp32_steps(traced: GraphModule, engine: Engine, chosen: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return, for each step that stays FP32 by choice, the reason, by the name of its node.

    A step without weights runs on INT8 only between INT8 steps: where its inputs are FP32, or all that reads its output
    is, rounding them would cost accuracy and save nothing.

    Args:
        traced: the network's canonical form.
        engine: of the INT8 network.
        chosen: names of modules and steps that are to stay FP32, by the reason.
    """
    reasons = {node.name: reason for node in traced.graph.nodes if (reason := _reason(node, traced, engine, chosen))}
    steps = [node for node in traced.graph.nodes if may_be_int8(node, traced) and node.name not in reasons]
    int8 = set(steps)
    free = [node for node in steps if not is_weighted(node, traced)]
    changed = True
    while changed:
        alone = [node for node in free if node in int8 and _is_among_fp32(node, int8)]
        int8.difference_update(alone)
        changed = bool(alone)
    return reasons | {node.name: "between FP32 steps" for node in free if node not in int8}


@cache
def quantizable() -> frozenset[Any]:
    """Return the module classes, functions and method names that torch's native backends have a pattern for."""

    def steps(pattern: Any) -> Iterator[Any]:
        if isinstance(pattern, tuple):
            for step in pattern:
                yield from steps(step)
        else:
            yield pattern

    configs = get_native_backend_config().configs
    return frozenset(step for config in configs if config.pattern is not None for step in steps(config.pattern))


def _reason(node: Node, traced: GraphModule, engine: Engine, chosen: Mapping[str, Collection[str]]) -> str | None:
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    if reason := next((reason for reason, names in chosen.items() if is_kept_node(node, names)), None):
        return reason
    if isinstance(module, MISCOMPUTED) or (engine == "qnnpack" and _has_ignored_options(module)):
        return WRONG
    if isinstance(module, _FLOAT_INSIDE) or node.target in _FLOAT_INSIDE_FUNCTIONS:
        return "computes in float inside, on INT8 values too"
    if isinstance(module, _ACTIVATIONS) or node.target in _ACTIVATION_FUNCTIONS:
        return "every runtime computes it in float"
    if node.target in _WEIGHTED_FUNCTIONS:
        return "its weights depend on the input"
    if node.target in _SCALAR and not all(isinstance(argument, Node) for argument in node.args[:2]):
        return "scales or shifts by a number, which needs no rounding"
    if node.target in _PRODUCTS:
        return "rounded factors would lose most"
    return None


def _has_ignored_options(module: nn.Module | None) -> bool:
    """Return whether a pooling has options that QNNPACK's kernel ignores, of those that the canonical form leaves."""
    return isinstance(module, nn.AvgPool2d) and bool(module.padding and not module.count_include_pad)


def may_be_int8(node: Node, traced: GraphModule) -> bool:
    """Return whether torch has an INT8 form of a step of the canonical form."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return type(module) in quantizable() or isinstance(module, _PASSIVE_MODULES)
    if node.op not in ("call_function", "call_method"):
        return False
    return node.target in quantizable() or function_name(node) in _PASSIVE


def _is_among_fp32(node: Node, int8: set[Node]) -> bool:
    values = [argument for argument in node.all_input_nodes if not _is_size(argument)]
    readers = [user for user in node.users if not _is_size(user)]
    return not any(value in int8 for value in values) or not any(reader in int8 for reader in readers)


def _is_size(node: Node) -> bool:
    return node.op in ("call_function", "call_method") and function_name(node) in _SIZES
