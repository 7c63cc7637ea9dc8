"""Steps of a network that torch.fx has traced: what they belong to and call, and how they are replaced."""

import copy
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node


def scope(node: Node) -> str:
    """Return the path of the module that a step belongs to, empty for the network itself."""
    paths = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return paths[-1] if paths else ""


def function_name(node: Node) -> str:
    """Return what the function or method that a node calls is named."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def copy_sharing_tensors(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network that shares the tensors of its modules with the original."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers(), *kept]})


def calls(network: GraphModule, kind: Any) -> Iterator[tuple[Node, Any]]:
    """Return the steps that call a module of a kind, each with its module."""
    for node in list(network.graph.nodes):
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, kind):
            yield node, module


def replace(node: Node, compute: Callable[[Any], Any]) -> None:
    """Replace a step of one input by those that a function of a `torch.fx.Proxy` computes."""
    before = set(node.graph.nodes)
    with node.graph.inserting_before(node):
        result: Node = compute(fx.Proxy(node.all_input_nodes[0])).node
    for new in set(node.graph.nodes) - before:
        new.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def set_module(network: GraphModule, path: str, module: nn.Module) -> None:
    """Put a module at a path, with the modules above it."""
    parent, _, name = path.rpartition(".")
    if parent and not _has_submodule(network, parent):
        network.add_submodule(parent, nn.Module())
    setattr(network.get_submodule(parent), name, module)


def unused_path(path: str, network: GraphModule) -> str:
    """Return a path with the first number appended at which there is no module."""
    return next(name for number in count(1) if not _has_submodule(network, name := f"{path}_{number}"))


def _has_submodule(network: GraphModule, path: str) -> bool:
    return path in dict(network.named_modules())
