"""Steps that overwrite their input, as steps that do not."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from ptqflow.models.nodes import function_name


def fill_with(x: Tensor, source: Tensor) -> Tensor:
    """Return a tensor of the shape and type of x with the values of the source, as `x.copy_(source)` does."""
    return source.to(x.dtype).expand_as(x)


_METHODS: dict[str, Any] = {"zero_": torch.zeros_like, "fill_": torch.full_like, "copy_": fill_with}
"""Functions for the methods that have none of their own name."""


def work_out_of_place(network: GraphModule) -> None:
    """Replace steps that overwrite their input, and let what reads the input afterwards read their result."""
    nodes = list(network.graph.nodes)
    for position, node in enumerate(nodes):
        if not _overwrites(node, network):
            continue
        source = node.all_input_nodes[0]
        later = set(nodes[position + 1 :])
        source.replace_all_uses_with(node, delete_user_cb=lambda user, later=later: user in later)
        if node.op != "call_module":
            node.target = _counterpart(node) or node.target
            node.op = "call_method" if isinstance(node.target, str) else "call_function"
            node.kwargs = {key: False if key == "inplace" else value for key, value in node.kwargs.items()}
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # of a copy


def _overwrites(node: Node, network: GraphModule) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    return node.op in ("call_function", "call_method") and (
        bool(node.kwargs.get("inplace")) or _counterpart(node) is not None
    )


def _counterpart(node: Node) -> Any:
    """Return the function or method that computes out of place what one such as `relu_` computes in place."""
    name = function_name(node)
    if not name.endswith("_") or name.endswith("__"):
        return None
    if node.op == "call_method":
        return _METHODS.get(name) or (name[:-1] if callable(getattr(Tensor, name[:-1], None)) else None)
    name = name[:-1]
    return getattr(torch, name, getattr(F, name, None))
