"""Which modules stay FP32."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.fx import GraphModule, Node

from ptqflow.core.errors import ParamsError
from ptqflow.fx.graph import fused_steps, is_weighted, trace
from ptqflow.models.nodes import scope


def match_names(key: str, patterns: Iterable[str], names: Collection[str]) -> list[str]:
    """Return the names that match a pattern, in which `*`, `?` and `[…]` mean what they mean to a shell.

    Raises:
        ParamsError: a pattern matches nothing; the error names `key` and the nearest names.
    """
    matched: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names)[:3]
            raise ParamsError(f"{key}: {pattern!r} matches nothing; near names: {', '.join(near)}")
        matched |= dict.fromkeys(found)
    return list(matched)


def kept_modules(model: nn.Module, patterns: Sequence[str], keeps_head: bool) -> tuple[str, ...]:
    """Return the modules that stay FP32, without those inside others.

    Args:
        model: the FP32 network.
        patterns: `convert.keep_fp32`.
        keeps_head: whether the last layers with weights on the way to the output are among them.

    Raises:
        ParamsError: a pattern matches nothing.
    """
    names = list(dict.fromkeys([name for name, _ in model.named_modules() if name] + _step_names(trace(model))))
    matched = match_names("convert.keep_fp32", patterns, names)
    kept = sorted({*matched, *(find_heads(model) if keeps_head else [])})
    return tuple(name for name in kept if not is_kept(name.rpartition(".")[0], kept))


def is_kept(name: str, kept: Collection[str]) -> bool:
    """Return whether a module is one of `kept` or inside one."""
    path = name.split(".")
    return any(".".join(path[:length]) in kept for length in range(1, len(path) + 1))


def is_kept_node(node: Node, kept: Collection[str]) -> bool:
    """Return whether a step of a network, traced or prepared, belongs to one of the `kept` modules."""
    return node.name in kept or is_kept(scope(node), kept)


def refuse_fused_steps(model: nn.Module, prepared: GraphModule, kept: Collection[str]) -> None:
    """Refuse to keep what is fused into a layer that is not kept.

    Raises:
        ParamsError: the error names that layer.
    """
    for node, steps in fused_steps(trace(model), prepared).items():
        for step in steps[1:]:
            if is_kept(str(step.target), kept) and not is_kept(str(node.target), kept):
                raise ParamsError(f"convert.keep_fp32: {step.target} is fused into {node.target}; name that layer too")


def find_heads(model: nn.Module) -> list[str]:
    """Return the layers with weights that the output depends on through no other such layer, in no order of theirs."""
    traced = trace(model)
    heads: dict[str, None] = {}
    waiting = [node for node in traced.graph.nodes if node.op == "output"]
    seen = set(waiting)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if is_weighted(node, traced):
                heads[str(node.target)] = None
            elif node not in seen:
                seen.add(node)
                waiting.append(node)
    return list(heads)


def _step_names(traced: GraphModule) -> list[str]:
    """Return the paths of all modules that steps belong to, and the names of functions and methods."""
    paths = [scope(node) for node in traced.graph.nodes]
    parents = [path[: dot.start()] for path in paths for dot in re.finditer(r"\.", path)]
    calls = [node.name for node in traced.graph.nodes if node.op in ("call_function", "call_method")]
    return [name for name in (*parents, *paths, *calls) if name]
