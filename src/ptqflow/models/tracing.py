"""Trace a user's network with torch.fx, and report the line of the user's code that cannot be traced."""

import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ptqflow.core.errors import ModelError, one_line
from ptqflow.core.normalization import InputShape
from ptqflow.models.shaped_tracer import NumberOfImagesError, ShapedTracer, StepError

_TORCH = Path(torch.__file__).parent
_OWN = Path(__file__).parent


def trace_user_code(model: nn.Module, input_shape: InputShape) -> fx.Graph:
    """Return the steps of a network in evaluation mode for one input; other arguments of `forward` have their defaults.

    Sizes are numbers, except for those that depend on the number of images. The meta of a step that returns a tensor
    has its shape under the key `shaped_tracer.SHAPE`.

    Args:
        model: in evaluation mode.
        input_shape: channels, height and width of an image.

    Raises:
        ModelError: torch.fx cannot trace the network, its code raises something while it is traced, or the steps do
            not run.
    """
    kind = type(model)

    def forward(self: nn.Module, images: Any) -> Any:
        return kind.forward(self, images)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, which has run before
            graph = ShapedTracer(input_shape).trace(model)
    except Exception as error:  # the user's code may raise anything for what stands for its input
        raise ModelError(_describe(error, kind.__name__)) from None
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


def _describe(error: Exception, kind: str) -> str:
    where, reason = _where(error), one_line(error)[:200]
    if isinstance(error, NumberOfImagesError):
        return (
            f"torch.fx cannot trace {kind}: {where} needs the number of images ({reason}), but the INT8 network runs "
            "for any; pass x.shape[0] to view, reshape, expand or new_zeros without int() or len(), or write -1 there"
        )
    if isinstance(error, fx.proxy.TraceError):
        return (
            f"torch.fx cannot trace {kind}: {where} depends on values of the input ({reason}); its forward may not "
            "branch or loop on them or make numbers of them: compute both ways and choose with torch.where"
        )
    if isinstance(error, StepError):
        return (
            f"{kind} does not run in the form that torch.fx traces: {reason} at {where}; let it run for any "
            "number of images, and let what it adds or multiplies in place have the same type"
        )
    return (
        f"{kind} does not run with what stands for its input while torch.fx traces it: {where} raises "
        f"{type(error).__name__} ({reason}); write it with functions of tensors, such as x.new_zeros(n, 2) instead of "
        "torch.zeros(n, 2), without converting tensors to numbers or writing into them"
    )


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_inside(Path(frame.filename))]
    frame = own[-1] if own else frames[-1]
    return f"{frame.filename}, line {frame.lineno}, `{frame.line}`"


def _is_inside(file: Path) -> bool:
    return file.is_relative_to(_TORCH) or file.is_relative_to(_OWN) or not file.exists()
