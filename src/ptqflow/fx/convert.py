"""convert_fx: from observers to INT8."""

import copy

import torch
from torch import nn
from torch.ao.quantization.quantize_fx import convert_fx
from torch.fx import GraphModule

from ptqflow.core.engines import Engine
from ptqflow.core.errors import ModelError
from ptqflow.fx.engine import use_engine
from ptqflow.fx.fp32_modules import is_kept_node
from ptqflow.fx.graph import is_clamp
from ptqflow.fx.prepare import Scheme, backend_config, is_miscomputed, without_torch_warnings

_SHIELD = "stays_fp32"


def convert(prepared: GraphModule, scheme: Scheme, image_size: int) -> GraphModule:
    """Convert a prepared network, which stays unchanged, to INT8 for its engine, and select that for this process.

    Observers without a range have scale 1: with all of them so, it is the uncalibrated control.

    Raises:
        EngineError: this machine lacks the engine.
        ModelError: torch cannot convert the network, or its INT8 form does not run on this engine.
    """
    use_engine(scheme.engine, scheme.reduce_range)
    with without_torch_warnings():
        try:
            converted = _convert_shielded(prepared, scheme)
        except Exception as error:  # torch raises anything for what it does not expect
            raise ModelError(
                f"torch cannot convert the network to INT8 ({_one_line(error)}); name the module that it is about in "
                "convert.keep_fp32"
            ) from None
    if scheme.engine == "qnnpack":
        _order_for_clamps(converted)
    _check_runs(converted, scheme.engine, image_size)
    return converted


def _convert_shielded(prepared: GraphModule, scheme: Scheme) -> GraphModule:
    """Convert with a step after each one that stays FP32: between INT8 ones, torch would put an INT8 kernel there."""
    shielded = copy.deepcopy(prepared)
    shielded.add_module(_SHIELD, nn.Identity())
    for node in list(shielded.graph.nodes):
        if is_kept_node(node, scheme.fp32) or is_miscomputed(node, shielded):
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
    converted.recompile()
    return converted


def _check_runs(converted: GraphModule, engine: Engine, image_size: int) -> None:
    # Not all that converts runs: a mean over 1x1 pixels does on qnnpack alone.
    try:
        with without_torch_warnings(), torch.inference_mode():
            converted.forward(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:  # torch raises anything for what it does not expect
        raise ModelError(
            f"the INT8 network cannot take images of {image_size}x{image_size} on {engine} ({_one_line(error)}); "
            "try another data.image_size or convert.engine"
        ) from None


def _order_for_clamps(converted: GraphModule) -> None:
    """Lay out channels first what goes into a clamp: QNNPACK's kernel returns channels-last values in a wrong order."""
    for node in converted.graph.nodes:
        if is_clamp(node, converted):
            with converted.graph.inserting_before(node):
                ordered = converted.graph.call_method("contiguous", (node.all_input_nodes[0],))
            node.replace_input_with(node.all_input_nodes[0], ordered)
    converted.recompile()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
