"""prepare_fx: fuse and insert observers."""

import copy
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import (
    HistogramObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
    default_weight_observer,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.backend_config import BackendConfig, get_native_backend_config, get_onednn_backend_config
from torch.ao.quantization.fx.fuse import fuse
from torch.ao.quantization.fx.prepare import prepare as insert_observers
from torch.fx import GraphModule, Node

from ptqflow.core.artifacts import Card
from ptqflow.core.engines import Engine
from ptqflow.core.errors import ModelError, one_line
from ptqflow.core.normalization import InputShape
from ptqflow.fx.float_output import without_relu
from ptqflow.fx.fp32_steps import fp32_steps, may_be_int8
from ptqflow.fx.fused_adds import additions_are_safe, fused_additions
from ptqflow.fx.graph import note_steps, observer_nodes, trace, unevenly_fused
from ptqflow.fx.observer import RangeObserver, WeightObserver, WeightScales, unit_scales
from ptqflow.models.nodes import function_name


class Scheme(Card):
    """What is quantized, and to which levels; with a network's architecture it determines every node of the graph."""

    engine: Engine
    reduce_range: bool
    """Whether activations keep to 7 of 8 bits."""
    per_channel: bool
    """Whether each output channel has a scale of its own for its weights."""
    mse_weights: bool
    """Whether the scales of weights have the least squared error, else the largest weight sets them."""
    fp32: tuple[str, ...]
    """Modules that stay FP32, with all that is in them."""
    without_kernel: tuple[str, ...] = ()
    """Steps that stay FP32 because the engine has no INT8 kernel for how they are used."""
    unequal: tuple[str, ...] = ()
    """Concatenations that stay FP32 because their inputs have ranges of other magnitudes."""
    fuse_additions: bool
    """Whether an addition that follows a convolution is fused into it where the engine can do that."""

    @property
    def quant_max(self) -> int:
        """Largest quantized level of an activation."""
        return 127 if self.reduce_range else 255


_POOLING = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd)
_REASON = "stays_fp32"
"""Key of a node's `meta`, and scope of functions that stay FP32."""

EVERYTHING = Scheme(
    engine="x86", reduce_range=False, per_channel=True, mse_weights=False, fp32=(), fuse_additions=False
)
"""Observes every tensor that any scheme quantizes."""


def prepare(
    model: nn.Module, input_shape: InputShape, scheme: Scheme, weight_scales: WeightScales = unit_scales
) -> GraphModule:
    """Fuse conv-bn-relu and insert a `RangeObserver` for each tensor to be quantized, in a copy of the model.

    For `onednn`, an addition that follows a convolution is fused into it too, where that is asked for and its kernel
    can.

    Args:
        model: FP32, in evaluation mode, in its canonical form.
        input_shape: channels, height and width of an image.
        scheme: what is quantized, and to which levels.
        weight_scales: chooses the scales of weights where `scheme.mse_weights` is set; the default is for a network
            whose weights are loaded afterwards.

    Raises:
        ModelError: the network cannot be traced, because what it computes depends on its input, or torch would change
            what it computes.
    """
    if (
        scheme.engine == "onednn"
        and scheme.fuse_additions
        and (prepared := _prepare_fusing_additions(model, input_shape, scheme, weight_scales))
    ):
        return prepared
    prepared = _prepare(model, input_shape, scheme, weight_scales, get_native_backend_config())
    _refuse_miscomputed(model, prepared)
    return prepared


def backend_config(prepared: GraphModule) -> BackendConfig:
    """Return what `convert_fx` must be given for a prepared network: the patterns that `prepare` fused by."""
    return get_onednn_backend_config() if fused_additions(prepared) else get_native_backend_config()


def fp32_reason(node: Node) -> str | None:
    """Return why a step of a prepared or converted network stays FP32, None if it need not."""
    reason: str | None = node.meta.get(_REASON)
    return reason


@contextmanager
def without_torch_warnings() -> Iterator[None]:
    """Silence torch.ao while it is called."""
    # Of its deprecation, of options that its own defaults set, and of observers without data, which the control wants.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _prepare_fusing_additions(
    model: nn.Module, input_shape: InputShape, scheme: Scheme, weight_scales: WeightScales
) -> GraphModule | None:
    """Return None where there is nothing to fuse, or torch cannot fuse it, or not without an error."""
    try:
        prepared = _prepare(model, input_shape, scheme, weight_scales, get_onednn_backend_config())
    except ModelError:  # such as for y + y or y + 1
        return None
    if not fused_additions(prepared) or unevenly_fused(model, prepared):
        return None
    return prepared if additions_are_safe(prepared, input_shape) else None


def _prepare(
    model: nn.Module, input_shape: InputShape, scheme: Scheme, weight_scales: WeightScales, backend: BackendConfig
) -> GraphModule:
    traced = trace(model)
    chosen = {
        "kept FP32": scheme.fp32,
        "torch has no INT8 kernel for how it is used here": scheme.without_kernel,
        "its inputs have ranges of other magnitudes": scheme.unequal,
    }
    reasons = fp32_steps(traced, scheme.engine, chosen)
    example = torch.zeros(1, *input_shape)
    with without_torch_warnings():
        mapping = _qconfig_mapping(scheme, weight_scales, _fp32_modules(traced, reasons))
        for call in range(len(reasons)):  # of modules that other calls run on INT8
            mapping.set_module_name_object_type_order(_REASON, nn.Module, call, None)
        try:
            fused = fuse(copy.deepcopy(traced), is_qat=False, backend_config=backend)
            prepared = insert_observers(
                fused, mapping, False, _scopes(traced, reasons), example_inputs=(example,), backend_config=backend
            )
        except Exception as error:  # torch's code raises anything for what it does not expect
            raise ModelError(
                f"torch cannot insert observers into {type(model).__name__} ({one_line(error)[:300]}); "
                "name the module that it is about in convert.keep_fp32"
            ) from None
    int8 = {node.name for node in traced.graph.nodes if may_be_int8(node, traced) and node.name not in reasons}
    _leave_unrounded(prepared, int8)
    for node in prepared.graph.nodes:
        if node.name in reasons:
            node.meta[_REASON] = reasons[node.name]
    note_steps(prepared)
    _reshape_for_view(prepared)
    return prepared


def _fp32_modules(traced: GraphModule, reasons: dict[str, str]) -> list[str]:
    """Return the modules of which every call stays FP32."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    int8 = {node.target for node in calls if node.name not in reasons}
    return [str(node.target) for node in calls if node.target not in int8]


def _scopes(traced: GraphModule, reasons: dict[str, str]) -> dict[str, tuple[str, Any]]:
    """Return path and type of the module that each step belongs to, by which torch chooses its qconfig."""
    scopes = {}
    for node in traced.graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        scopes[node.name] = stack[-1] if stack else ("", nn.Module)
        if node.name in reasons:  # of a module torch looks at the parent
            scopes[node.name] = (f"{_REASON}.call" if node.op == "call_module" else _REASON, nn.Module)
    return scopes


def _leave_unrounded(prepared: GraphModule, int8: Collection[str]) -> None:
    """Remove the observers of outputs of layers that no INT8 step reads, so that they are not rounded.

    Convolutions before additions, pooling and concatenations alone keep them: there, ONNX Runtime has INT8 kernels.
    """
    for node in observer_nodes(prepared):
        source, readers = node.all_input_nodes[0], list(node.users)
        layer = without_relu(prepared.get_submodule(str(source.target))) if source.op == "call_module" else None
        if not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) or any(reader.name in int8 for reader in readers):
            continue
        kept = ("output",) if isinstance(layer, nn.Linear) else ("output", "add", "cat", "mean", "pool")
        if not all(_kind_of_reader(reader, prepared) in kept for reader in readers):
            node.replace_all_uses_with(source)
            prepared.graph.erase_node(node)
            prepared.delete_submodule(str(node.target))
    prepared.recompile()


def _kind_of_reader(node: Node, prepared: GraphModule) -> str:
    if node.op == "call_module":
        return "pool" if isinstance(prepared.get_submodule(str(node.target)), _POOLING) else "module"
    return node.op if node.op == "output" else function_name(node)


def _reshape_for_view(prepared: GraphModule) -> None:
    """Make calls of `view` calls of `reshape`: INT8 kernels return values in a memory order that `view` may refuse."""
    for node in prepared.graph.nodes:
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"
    prepared.recompile()


def _refuse_miscomputed(model: nn.Module, prepared: GraphModule) -> None:
    if layer := unevenly_fused(model, prepared):
        raise ModelError(
            f"{layer} runs more than once and torch would fuse what follows one of its runs into all of them; use "
            "a layer of its own for each run, or let the same layers follow each"
        )
    for node in prepared.graph.nodes:
        if node.target is torch.add and node.kwargs.get("alpha", 1) != 1:
            raise ModelError(f"{node.name}: torch's INT8 addition ignores alpha; write x + alpha * y")


def _qconfig_mapping(scheme: Scheme, weight_scales: WeightScales, fp32: Collection[str]) -> QConfigMapping:
    """Return torch's default mapping for the engine, with our observers, and none for the modules `fp32`."""
    mapping = get_default_qconfig_mapping(scheme.engine)
    activation = partial(RangeObserver, scheme.quant_max)
    mapping.set_global(QConfig(activation=activation, weight=_weight_observer(scheme, weight_scales)))
    for kind, qconfig in mapping.object_type_qconfigs.items():
        if qconfig and isinstance(qconfig.activation(), HistogramObserver):  # else the range of the input
            mapping.set_object_type(kind, qconfig._replace(activation=activation))
    for name in (*fp32, _REASON):
        mapping.set_module_name(name, None)
    return mapping


def _weight_observer(scheme: Scheme, weight_scales: WeightScales) -> Any:
    if scheme.mse_weights:
        return partial(WeightObserver, scheme.per_channel, weight_scales)
    return default_per_channel_weight_observer if scheme.per_channel else default_weight_observer
