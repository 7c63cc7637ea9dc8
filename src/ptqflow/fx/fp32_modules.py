"""Which modules stay FP32."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.fx import GraphModule, Node

from ptqflow.core.errors import ParamsError
from ptqflow.fx.graph import fused_steps, is_weighted, step_name, trace
from ptqflow.models.nodes import function_name, scope

_NO_TYPES: Mapping[str, Collection[str]] = {}


def match_names(
    key: str, patterns: Iterable[str], names: Collection[str], types: Mapping[str, Collection[str]] = _NO_TYPES
) -> list[str]:
    """Return the names that match a pattern, in which `*`, `?` and `[…]` mean what they mean to a shell.

    Args:
        key: of the params, for the error.
        patterns: each of names, or a type.
        names: of modules, functions or tensors.
        types: names by their type; upper case and underscores in a type do not count. A name counts before a type that
            is spelled otherwise.

    Raises:
        ParamsError: a pattern matches nothing; the error names `key` and the nearest names and types.
    """
    matched: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if pattern in types or not found:
            found += [name for kind in types if _plain(kind) == _plain(pattern) for name in types[kind]]
        if not found:
            known = list(dict.fromkeys([*names, *types]))
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
            raise ParamsError(f"{key}: {pattern!r} matches nothing; near names: {', '.join(near)}")
        matched |= dict.fromkeys(found)
    return list(matched)


def kept_modules(
    model: nn.Module, patterns: Sequence[str], keeps_head: bool, also: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the modules and functions that stay FP32, without those inside others.

    Args:
        model: the FP32 network.
        patterns: `convert.keep_fp32`: names, patterns of names, and types of operations or modules, such as `add`,
            `conv2d` or `GELU`. The path of a module stands for that module alone, also where it is a type as well.
        keeps_head: whether the last layers with weights on the way to the output are among them.
        also: names, not patterns, of what stays FP32 besides.

    Raises:
        ParamsError: a pattern matches nothing.
    """
    traced = trace(model)
    paths = dict.fromkeys([*(name for name, _ in model.named_modules() if name), *_paths(traced)])
    names = dict.fromkeys([*paths, *(node.name for node in _function_nodes(traced))])
    types = {kind: found for kind, found in _steps_by_type(traced).items() if kind not in paths}
    matched = match_names("convert.keep_fp32", patterns, names, types)
    kept = sorted({*matched, *also, *(find_heads(model) if keeps_head else [])})
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
            if is_kept_node(step, kept) and not is_kept_node(node, kept):
                advice = "" if step.op == "call_module" else ", or set convert.fuse_additions=false"
                raise ParamsError(
                    f"convert.keep_fp32: {step_name(step)} is fused into {step_name(node)}; name that layer too{advice}"
                )


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


def _paths(traced: GraphModule) -> list[str]:
    """Return the paths of all modules that steps belong to."""
    paths = [scope(node) for node in traced.graph.nodes]
    parents = [path[: dot.start()] for path in paths for dot in re.finditer(r"\.", path)]
    return [name for name in (*parents, *paths) if name]


def _function_nodes(traced: GraphModule) -> list[Node]:
    return [node for node in traced.graph.nodes if node.op in ("call_function", "call_method")]


def _steps_by_type(traced: GraphModule) -> dict[str, list[str]]:
    """Return the paths of modules by their class, and the names of functions and methods by what they call."""
    found: dict[str, dict[str, None]] = {}
    for node in traced.graph.nodes:
        for path, kind in node.meta.get("nn_module_stack", {}).values():
            found.setdefault(getattr(kind, "__name__", str(kind)), {})[path] = None
        if node.op == "call_module":
            found.setdefault(type(traced.get_submodule(node.target)).__name__, {})[node.target] = None
    for node in _function_nodes(traced):
        found.setdefault(function_name(node), {})[node.name] = None
    return {kind: list(names) for kind, names in found.items()}


def _plain(kind: str) -> str:
    return kind.replace("_", "").lower()
