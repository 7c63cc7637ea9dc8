"""convert_fx: from observers to INT8."""

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization.quantize_fx import convert_fx
from torch.fx import GraphModule, Node

from ptqflow.core.engines import Engine
from ptqflow.core.errors import ModelError, one_line
from ptqflow.core.normalization import InputShape
from ptqflow.fx.engine import use_engine
from ptqflow.fx.float_output import replace_reference_layers
from ptqflow.fx.graph import is_clamp
from ptqflow.fx.prepare import Scheme, backend_config, fp32_reason, without_torch_warnings

_SHIELD = "stays_fp32"


def convert(prepared: GraphModule, scheme: Scheme, input_shape: InputShape) -> GraphModule:
    """Convert a prepared network, which stays unchanged, to INT8 for its engine, and select that for this process.

    Observers without a range have scale 1: with all of them so, it is the uncalibrated control.

    Raises:
        EngineError: this machine lacks the engine.
        MissingKernelError: a step has no INT8 kernel.
        ModelError: torch cannot convert the network, or its INT8 form does not run on this engine.
    """
    use_engine(scheme.engine, scheme.reduce_range)
    with without_torch_warnings():
        try:
            converted = _convert_shielded(prepared)
        except Exception as error:  # torch raises anything for what it does not expect
            raise ModelError(
                f"torch cannot convert the network to INT8 ({one_line(error)}); name the module that it is about in "
                "convert.keep_fp32"
            ) from None
    if scheme.engine == "qnnpack":
        _order_for_clamps(converted)
    _check_runs(converted, prepared, scheme.engine, input_shape)
    return converted


def _convert_shielded(prepared: GraphModule) -> GraphModule:
    """Convert with a step after each one that stays FP32: between INT8 ones, torch would put an INT8 kernel there."""
    shielded = copy.deepcopy(prepared)
    shielded.add_module(_SHIELD, nn.Identity())
    for node in list(shielded.graph.nodes):
        if fp32_reason(node):
            with shielded.graph.inserting_after(node):
                shield = shielded.graph.call_module(_SHIELD, (node,))
            node.replace_all_uses_with(shield, delete_user_cb=lambda user, shield=shield: user is not shield)
    shielded.recompile()
    converted = convert_fx(shielded, backend_config=backend_config(prepared))
    for node in list(converted.graph.nodes):
        if node.target == _SHIELD:
            node.replace_all_uses_with(node.args[0])
            converted.graph.erase_node(node)
    converted.delete_submodule(_SHIELD)
    replace_reference_layers(converted)
    converted.recompile()
    return converted


class MissingKernelError(ModelError):
    """A step has no INT8 kernel on the engine for how it is used; it runs if it stays FP32."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        """Name of its module, or of the function's node."""


class _Steps(fx.Interpreter):
    """Runs a network and records which step is running."""

    running: Node

    def run_node(self, n: Node) -> Any:
        self.running = n
        return super().run_node(n)


def _check_runs(converted: GraphModule, prepared: GraphModule, engine: Engine, input_shape: InputShape) -> None:
    # Not all that converts runs: a mean over 1x1 pixels does on qnnpack alone.
    steps = _Steps(converted)
    _, height, width = input_shape
    try:
        with without_torch_warnings(), torch.inference_mode():
            steps.run(torch.zeros(2, *input_shape))
    except Exception as error:  # torch raises anything for what it does not expect
        step = str(steps.running.target) if steps.running.op == "call_module" else steps.running.name
        reason = one_line(error)[:200]
        if any(node.name == steps.running.name and not fp32_reason(node) for node in prepared.graph.nodes):
            raise MissingKernelError(
                step,
                f"torch has no INT8 kernel on {engine} for how {step} is used ({reason}); name it in convert.keep_fp32",
            ) from None
        raise ModelError(
            f"the INT8 network cannot take images of {height}x{width} on {engine}: {step} raises "
            f"{type(error).__name__} ({reason}); name it in convert.keep_fp32, or try another convert.engine"
        ) from None


def _order_for_clamps(converted: GraphModule) -> None:
    """Lay out channels first what goes into a clamp: QNNPACK's kernel returns channels-last values in a wrong order."""
    for node in converted.graph.nodes:
        if is_clamp(node, converted):
            with converted.graph.inserting_before(node):
                ordered = converted.graph.call_method("contiguous", (node.all_input_nodes[0],))
            node.replace_input_with(node.all_input_nodes[0], ordered)
    converted.recompile()
