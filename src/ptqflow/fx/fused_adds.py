"""Where oneDNN can fuse an addition into the convolution before it.

Its kernel writes the sum over the other summand (measured with torch 2.13: a later reader of that finds the sum, and a
summand of another shape ends the process). So the fusion is right only where nothing else reads that summand
afterwards, and the shapes are equal.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic import ConvAdd2d, ConvAddReLU2d
from torch.ao.quantization import ObserverBase
from torch.fx import GraphModule, Node

from ptqflow.core.normalization import InputShape
from ptqflow.models.nodes import function_name

# What may return its argument's own memory.
_ALIASING_MODULES = (ObserverBase, nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)  # and those that work in place
_ALIASING_FUNCTIONS = {
    *("flatten", "reshape", "view", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "expand"),
    *("getitem", "chunk", "split", "unbind", "dropout", "dropout2d", "to", "detach", "movedim", "narrow", "select"),
}


def fused_additions(prepared: GraphModule) -> list[Node]:
    """Return the convolutions of a prepared network into which an addition is fused."""
    return [
        node
        for node in prepared.graph.nodes
        if node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), ConvAdd2d | ConvAddReLU2d)
    ]


def additions_are_safe(prepared: GraphModule, input_shape: InputShape) -> bool:
    """Return whether every fused addition of a prepared network may overwrite its other summand."""
    additions = fused_additions(prepared)
    if not additions:
        return True
    shapes = _Shapes(prepared)
    with torch.inference_mode():
        shapes.run(torch.zeros(2, *input_shape))  # of one image, a parameter could have the shape
    position = {node: i for i, node in enumerate(prepared.graph.nodes)}
    return shapes.equal and all(_overwrites_unread(node, prepared, position) for node in additions)


class _Shapes(fx.Interpreter):
    """Runs a prepared network, without its observers, and compares the summands."""

    equal = True

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, ObserverBase):
            return args[0]
        if isinstance(module, ConvAdd2d | ConvAddReLU2d):
            summand = args[1]
            self.equal &= isinstance(summand, Tensor) and module[0](args[0]).shape == summand.shape
        return super().call_module(target, args, kwargs)


def _overwrites_unread(node: Node, graph: GraphModule, position: dict[Node, int]) -> bool:
    convolved, summand = (_owner(argument, graph) for argument in node.args[:2])
    readers = [reader for reader in _readers(summand, graph) if reader is not node]
    return convolved is not summand and all(position[reader] < position[node] for reader in readers)


def _owner(node: Any, graph: GraphModule) -> Node:
    """Return the node whose memory a node returns."""
    while _is_alias(node, graph):
        node = node.all_input_nodes[0]
    assert isinstance(node, Node)
    return node


def _readers(node: Node, graph: GraphModule) -> Iterator[Node]:
    for user in node.users:
        if _is_alias(user, graph):
            yield from _readers(user, graph)
        else:
            yield user


def _is_alias(node: Node, graph: GraphModule) -> bool:
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return isinstance(module, _ALIASING_MODULES) or getattr(module, "inplace", False)
    if node.op not in ("call_function", "call_method"):
        return False
    name = function_name(node)
    return name in _ALIASING_FUNCTIONS or name.endswith("_") or bool(node.kwargs.get("inplace"))
