"""The least fidelity to FP32 that an INT8 network must have, and where one that lacks it loses it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ptqflow.core.errors import ModelError
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.fx.graph import fused_steps, step_name, trace
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.fx.values import step_values

_NAMED = 3
_EXACT = 99.0
"""Decibels that stand for no difference."""


@dataclass(frozen=True)
class Fidelity:
    """How near an INT8 network is to FP32."""

    sqnr_db: float
    """Median over the images of their logits' SQNR."""
    images: str
    """Which, such as "32 calibration images"."""


def measure_fidelity(model: nn.Module, converted: GraphModule, images: Tensor) -> Fidelity:
    """Compare the logits of an INT8 network, whose engine is selected, with FP32's.

    Args:
        model: the FP32 network.
        converted: the INT8 network.
        images: of the calibration, float32 (N, C, H, W), normalized.
    """
    with without_torch_warnings(), torch.inference_mode():
        found = median_sqnr_db(converted(images), model(images))
    return Fidelity(found, f"{len(images)} calibration images")


def require_fidelity(
    fidelity: Fidelity, min_sqnr_db: float | None, model: nn.Module, converted: GraphModule, images: Tensor
) -> None:
    """Require that an INT8 network is near enough to FP32.

    Args:
        fidelity: that was measured.
        min_sqnr_db: the least that is accepted, None for no limit.
        model: the FP32 network.
        converted: the INT8 network, whose engine is selected.
        images: float32 (N, C, H, W), on which the steps are compared where it is less.

    Raises:
        ModelError: it is less; the error names the steps in which most is lost.
    """
    if min_sqnr_db is None or fidelity.sqnr_db >= min_sqnr_db:
        return
    steps = ", ".join(f"{name} ({before} to {after} dB)" for name, before, after in _losses(model, converted, images))
    raise ModelError(
        f"the INT8 network has an SQNR of {fidelity.sqnr_db:.1f} dB to FP32, the median of {fidelity.images}, and "
        f"convert.min_sqnr_db is {min_sqnr_db:g}; most is lost in {steps}; try another convert.activation.method, or "
        "name these steps in convert.keep_fp32"
    )


def _losses(model: nn.Module, converted: GraphModule, images: Tensor) -> list[tuple[str, str, str]]:
    """Return the steps in which most fidelity is lost, with the median SQNR of their worst input and their output."""
    traced = trace(model)
    exact, found = step_values(traced, images), step_values(converted, images)
    sqnr: dict[Node, float] = {}
    losses = []
    for node, steps in fused_steps(traced, converted).items():
        reference, values = exact.get(step_name(steps[-1])), found.get(step_name(node))
        if reference is None or values is None or reference.shape != values.shape or reference.dim() < 2:
            continue
        sqnr[node] = min(median_sqnr_db(values.flatten(1), reference.flatten(1)), _EXACT)
        before = min((sqnr[source] for source in _sources(node, sqnr)), default=_EXACT)
        losses.append((_noise(sqnr[node]) - _noise(before), step_name(steps[0]), f"{before:.0f}", f"{sqnr[node]:.0f}"))
    return [(name, before, after) for _, name, before, after in sorted(losses, reverse=True)[:_NAMED]]


def _noise(sqnr_db: float) -> float:
    """Return the power of the noise over that of the signal."""
    return float(10 ** (-sqnr_db / 10))


def _sources(node: Node, known: dict[Node, float]) -> list[Node]:
    """Return the nearest steps before a node whose fidelity is known."""
    sources: list[Node] = []
    for argument in node.all_input_nodes:
        sources += [argument] if argument in known else _sources(argument, known)
    return sources
