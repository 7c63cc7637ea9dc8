"""What of a network does not depend on its input, as plain weights and buffers."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ptqflow.models.nodes import scope
from ptqflow.models.shaped_tracer import SHAPE


def bake(module: nn.Module) -> None:
    """Write the weights that a module computes from other tensors as plain ones."""
    if parametrize.is_parametrized(module):
        # By hand, since torch takes them from the class, which the copy shares with the original.
        values = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
        del module.parametrizations
        module.__class__ = parametrize.type_before_parametrizations(module)
        for name, value in values.items():
            setattr(module, name, nn.Parameter(value, False))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


def fold_constants(network: GraphModule) -> None:
    """Compute what depends on parameters and buffers alone."""
    values: dict[Node, Any] = {}
    for node in list(network.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(network)
        elif node.op in ("call_function", "call_method") and _has_constant_inputs(node, values):
            values[node] = _compute(node, values)
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op != "get_attr" and isinstance(value, Tensor) and is_read:
            name = f"{scope(node)}.{node.name}".strip(".").replace(".", "_")
            network.register_buffer(name, value.detach())
            with network.graph.inserting_before(node):
                folded = network.graph.get_attr(name)
            folded.meta = dict(node.meta)
            folded.meta[SHAPE] = value.shape
            node.replace_all_uses_with(folded)


def _has_constant_inputs(node: Node, values: dict[Node, Any]) -> bool:
    inputs = node.all_input_nodes
    return bool(inputs) and all(argument in values for argument in inputs)


def _compute(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]
