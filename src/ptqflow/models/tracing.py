"""Trace a user's network with torch.fx, and report the line of the user's code that cannot be traced."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ptqflow.core.errors import ModelError

_TORCH = Path(torch.__file__).parent
_OWN = Path(__file__).parent


class _Tracer(fx.Tracer):
    """Traces into what has hooks, which a later form of the module would lose."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        hooks = len(m._forward_hooks) + len(m._forward_pre_hooks)
        return super().is_leaf_module(m, module_qualified_name) and not hooks


def trace_user_code(model: nn.Module) -> fx.Graph:
    """Return the steps of a network in evaluation mode for one input; other arguments of `forward` have their defaults.

    Raises:
        ModelError: torch.fx cannot trace the network, or its code raises something while it is traced.
    """
    kind = type(model)

    def forward(self: nn.Module, images: Any) -> Any:
        return kind.forward(self, images)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        with torch.no_grad():
            graph = _Tracer().trace(model)
    except fx.proxy.TraceError as error:
        raise ModelError(
            f"torch.fx cannot trace {kind.__name__}: {_where(error)} depends on values of the input ({_line(error)}); "
            "its forward may not branch or loop on them: compute both ways and choose with torch.where"
        ) from None
    except Exception as error:  # the user's code may raise anything for what stands for its input
        raise ModelError(
            f"{kind.__name__} does not run with what stands for its input while torch.fx traces it: {_where(error)} "
            f"raises {type(error).__name__} ({_line(error)}); write it with torch's functions, without converting "
            "tensors to numbers or writing into them"
        ) from None
    finally:
        model.__class__ = kind
    _name_input(graph, kind)
    return graph


def _name_input(graph: fx.Graph, kind: type[nn.Module]) -> None:
    placeholder = next(iter(graph.nodes))
    code: Any = getattr(kind.forward, "__code__", None)
    name = code.co_varnames[1] if code and code.co_argcount > 1 else placeholder.name
    placeholder.target = name
    placeholder._rename(name)


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_inside(Path(frame.filename))]
    frame = own[-1] if own else frames[-1]
    return f"{frame.filename}, line {frame.lineno}, `{frame.line}`"


def _is_inside(file: Path) -> bool:
    return file.is_relative_to(_TORCH) or file.is_relative_to(_OWN) or not file.exists()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
