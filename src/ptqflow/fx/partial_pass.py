"""Part of a network again: what depends on a change, from the values that a whole pass left."""

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx
from torch.fx import Node


def run_again(
    interpreter: fx.Interpreter,
    kept: dict[Node, Any],
    changes: Mapping[Node, Callable[[], Any]],
    until: Iterable[Node],
    last_uses: Mapping[Node, Iterable[Node]] | None = None,
) -> ChainMap[Node, Any]:
    """Run what depends on a change, as far as to some nodes.

    Args:
        interpreter: of the network; its `env` becomes the result.
        kept: values of a whole pass; stay unchanged.
        changes: what computes the values of the nodes that change, from `env`.
        until: after the last of which nothing is run.
        last_uses: the nodes that each node is the last to read, whose new values are then freed; None keeps them all.

    Returns:
        All values that are not freed; `maps[0]` has those that are other than kept.
    """
    values: ChainMap[Node, Any] = ChainMap({}, kept)
    changed, left = values.maps[0], set(until)
    interpreter.env = values  # type: ignore[assignment]  # it is only read
    for node in interpreter.graph.nodes:
        if node in changes:
            changed[node] = changes[node]()
        elif any(argument in changed for argument in node.all_input_nodes):
            changed[node] = interpreter.run_node(node)
        for read in (last_uses or {}).get(node, ()):
            changed.pop(read, None)
        left.discard(node)
        if not left:
            break
    return values


def output_node(graph: fx.Graph) -> Node:
    """Return the node whose value the network returns."""
    output: Node = next(node for node in graph.nodes if node.op == "output")
    return output
