"""Names for what flows through a network, the same in every graph that torch.fx makes of it."""

from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization.fx.fuse import fuse
from torch.fx import GraphModule, Node
from torch.nn import functional

from ptqflow.fx.observer import RangeObserver
from ptqflow.models.nodes import copy_sharing_tensors

_TENSOR = "observed_tensor"
"""Key of a node's `meta`."""
_RELUS = (functional.relu, torch.relu, "relu")
_CLAMPS = (functional.relu6, functional.hardtanh, torch.clamp, "clamp")


def trace(model: nn.Module) -> GraphModule:
    """Return the steps of a network in evaluation mode, to be read and run only: of a canonical form that itself."""
    if isinstance(model, GraphModule) and not model.training:
        return model
    copied = copy_sharing_tensors(model).eval()
    return copied if isinstance(copied, GraphModule) else fx.symbolic_trace(copied)


def note_steps(prepared: GraphModule) -> None:
    """Note on the steps of a prepared network their names, which `convert_fx` changes."""
    for node in prepared.graph.nodes:
        node.stack_trace = node.name  # all that convert_fx keeps of a function that it replaces


def step_name(node: Node) -> str:
    """Return the path of the module that a node calls, of a function its name in the canonical form."""
    return str(node.target) if node.op == "call_module" else node.stack_trace or node.name


def is_weighted(node: Node, graph: GraphModule) -> bool:
    """Return whether a node calls a convolution, transposed or not, or a linear layer."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), kinds)


def name_observed(model: nn.Module, prepared: GraphModule) -> dict[str, str]:
    """Return, for each observer of a prepared network in order, the name of the tensor that it observes.

    It is the path of the layer whose output it is (`layer1.0.conv1`; with a number appended where the layer runs more
    than once), of a function what torch.fx calls it (`add`), of the input the name of the argument. A layer stands
    for what every engine fuses into it; where one fuses more, such as an addition into a convolution, the output has
    the name of the addition.
    """
    nodes = observer_nodes(prepared)
    if not all(_TENSOR in node.meta for node in nodes):
        _note_tensors(model, prepared, nodes)
    return {str(node.target): node.meta[_TENSOR] for node in nodes}


def _note_tensors(model: nn.Module, prepared: GraphModule, nodes: list[Node]) -> None:
    """Note the names on the nodes that observe: to find them takes as long as to trace the network."""
    traced = trace(model)
    names = tensor_names(traced)
    steps_of = fused_steps(traced, prepared)
    for node in nodes:
        node.meta[_TENSOR] = names[steps_of[node.all_input_nodes[0]][-1]]


def tensor_names(traced: GraphModule) -> dict[Node, str]:
    """Return the names of `name_observed` by the step that returns the tensor, the last of those fused into one."""
    copied: Any = copy_sharing_tensors(traced)
    names: dict[Node, str] = {}
    for node, steps in fused_steps(traced, fuse(copied, is_qat=False)).items():
        name = str(node.target) if node.op == "call_module" else node.name
        calls = sum(taken.partition(":")[0] == name for taken in names.values())
        names[steps[-1]] = f"{name}:{calls}" if calls else name
    return names


def observer_nodes(prepared: GraphModule) -> list[Node]:
    """Return the nodes that observe a tensor, also where its range is fixed, as after sigmoid."""
    return [
        node
        for node in prepared.graph.nodes
        if node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), RangeObserver)
    ]


def only_clamped(prepared: GraphModule) -> set[str]:
    """Return the observers whose tensor goes into clamps and nowhere else."""
    return {
        str(node.target)
        for node in observer_nodes(prepared)
        if node.users and all(clamps(user, prepared) for user in node.users)
    }


def clamps(node: Node, graph: GraphModule) -> bool:
    """Return whether a node cuts off values as ReLU or ReLU6 does."""
    return _is_relu(node, graph) or is_clamp(node, graph)


def is_clamp(node: Node, graph: GraphModule) -> bool:
    """Return whether a node cuts off what is outside a range, as ReLU6 does."""
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), nn.Hardtanh)  # of which ReLU6 is one
    return node.target in _CLAMPS


def fused_steps(traced: GraphModule, graph: GraphModule) -> dict[Node, list[Node]]:
    """Return the steps of the traced network that each node of a later graph computes; the first has its name."""
    left = {node.name for node in graph.graph.nodes}
    first = {step.name: step for step in traced.graph.nodes}
    return {node: _follow(first[node.name], node, left) for node in graph.graph.nodes if node.name in first}


def unevenly_fused(model: nn.Module, prepared: GraphModule) -> str | None:
    """Return a layer that runs more than once and is followed each time by something else that torch fuses into it.

    Torch fuses for one of these runs and changes the others with it.
    """
    followed: dict[str, list[str]] = {}
    for node, steps in fused_steps(trace(model), prepared).items():
        if node.op == "call_module":
            fused = [str(step.target) for step in steps[1:]]
            if followed.setdefault(str(node.target), fused) != fused:
                return str(node.target)
    return None


def weighted_modules(prepared: GraphModule) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the convolutions and linear layers of a prepared network by name, without what is fused into them."""
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    for node in prepared.graph.nodes:
        module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        inner = module[0] if isinstance(module, nn.Sequential) else module
        if isinstance(inner, nn.Conv2d | nn.Linear):
            found[str(node.target)] = inner
    return found


def _is_renamed(step: Node) -> bool:
    """Return whether `convert_fx` renames a step: a function of one tensor that cannot be fused."""
    return step.op == "call_function" and len(step.all_input_nodes) == 1 and step.target is not functional.relu


def _is_relu(node: Node, graph: GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), nn.ReLU)
    return node.target in _RELUS


def _follow(step: Node, node: Node, left: set[str]) -> list[Node]:
    steps = [step]
    other_inputs = len(node.args) - len(step.args)  # of the steps after the first, such as the other summand
    while len(steps[-1].users) == 1:
        following = next(iter(steps[-1].users))
        other_inputs -= len(following.all_input_nodes) - 1
        if following.name in left or other_inputs < 0 or _is_renamed(following):
            break
        steps.append(following)
    return steps
