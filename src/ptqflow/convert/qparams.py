"""What `convert` chooses: what is quantized, and the range of each tensor."""

from collections.abc import Collection, Sequence
from typing import Literal

from torch import nn
from torch.fx import GraphModule

from ptqflow.calib.statistics import Statistics
from ptqflow.calib.tensor_statistics import share
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.ranges import Levels, Method, QParams, choose_range, to_qparams
from ptqflow.core.engines import lacks_vnni
from ptqflow.core.errors import ArtifactError, ParamsError
from ptqflow.fx.engine import overflowing_layers
from ptqflow.fx.fp32_modules import find_heads, is_kept, kept_modules, match_names, refuse_fused_steps
from ptqflow.fx.graph import name_observed, only_clamped
from ptqflow.fx.prepare import Scheme
from ptqflow.fx.qparams import observed_together

_FP32_BYTES = 4  # of a weight, which has 1 in INT8
_LARGEST_HEAD = 0.25  # share of the weights' bytes, beyond which `convert.head=auto` quantizes it
_SMALL_HEAD = 1 << 20  # bytes, for whose sake no precision is lost


def resolve_scheme(model: nn.Module, params: ConvertParams, also_fp32: Sequence[str] = ()) -> Scheme:
    """Resolve what the params leave to the network and to this CPU.

    Args:
        model: the FP32 network.
        params: the `convert` section.
        also_fp32: names of modules that stay FP32 besides those of the params.

    Raises:
        ParamsError: a pattern of `keep_fp32` matches nothing, or 8-bit activations were asked for where a kernel of the
            engine can overflow with them.
    """
    fp32 = kept_modules(model, params.keep_fp32, _keeps_head(model, params.head), also_fp32)
    reduce_range = params.activation.reduce_range
    layer = next((name for name in overflowing_layers(model, params.engine) if not is_kept(name, fp32)), None)
    if layer and reduce_range is False:
        raise ParamsError(
            f"convert.activation.reduce_range is false, but {params.engine} runs {layer} on a kernel that can overflow "
            "with all 8 bits; set it to null or true, or take convert.engine=onednn"
        )
    return Scheme(
        engine=params.engine,
        reduce_range=bool(layer) or lacks_vnni(params.engine) if reduce_range is None else reduce_range,
        per_channel=params.weight.per_channel,
        mse_weights=params.weight.method == "mse",
        fp32=fp32,
        fuse_additions=params.fuse_additions,
    )


def _keeps_head(model: nn.Module, head: Literal["auto", "fp32", "int8"]) -> bool:
    if head != "auto":
        return head == "fp32"
    in_heads = sum(_count_weights(model.get_submodule(name)) for name in find_heads(model))
    in_fp32, others = _FP32_BYTES * in_heads, _count_weights(model) - in_heads
    return in_fp32 <= max(_SMALL_HEAD, _LARGEST_HEAD * (in_fp32 + others))


def _count_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def set_ranges(
    model: nn.Module,
    prepared: GraphModule,
    scheme: Scheme,
    statistics: Statistics,
    params: ConvertParams,
    *,
    idle_overrides: bool = False,
) -> dict[str, QParams]:
    """Choose the range of every observed tensor and set it on its observer.

    Tensors that share an observer, such as those around a pooling, get the range of all their values together, but for
    one that goes only into a clamp such as ReLU6: what that cuts off needs no levels. A tensor that never had a value
    keeps scale 1.

    Args:
        model: the FP32 network.
        prepared: it with observers.
        scheme: that it was prepared with.
        statistics: of the FP32 network.
        params: the `convert` section.
        idle_overrides: whether an override may match only what gets no range, because more stays FP32 than the params
            say.

    Returns:
        Scale and zero point by the name of the tensor, of those whose values counted.

    Raises:
        ArtifactError: the statistics belong to another network.
        ParamsError: `keep_fp32` names a part of a layer alone, or an override matches nothing, nothing but what
            `keep_fp32` names, or nothing that gets a range.
    """
    default = params.activation.method
    assert default != "auto", "search_methods resolves it"
    refuse_fused_steps(model, prepared, scheme.fp32)
    names_of = name_observed(model, prepared)
    together = observed_together(prepared, names_of)
    ranged = statistics.tensors.keys() if idle_overrides else {name for names in together.values() for name in names}
    overrides = _overrides(model, statistics, params, ranged)
    levels = Levels(scheme.quant_max, params.activation.symmetric)
    clamped = {names_of[target] for target in only_clamped(prepared)}
    chosen: dict[str, QParams] = {}
    for observer, names in together.items():
        counting = [name for name in names if name not in clamped] or names
        if missing := [name for name in counting if name not in statistics.tensors]:
            raise ArtifactError(f"the statistics belong to another network: they lack {missing[0]}; run `dvc repro`")
        seen = {name: found for name in counting if (found := statistics.tensors[name]) is not None}
        if not seen:
            continue
        own = (method for matched, method in overrides if not matched.isdisjoint(names))
        method = next(own, default)
        chosen_range = choose_range(share(list(seen.values())), method, params.activation.percentile, levels)
        qparams = to_qparams(chosen_range, levels)
        observer.scale, observer.zero_point = qparams.scale, qparams.zero_point
        chosen |= dict.fromkeys(seen, qparams)
    return chosen


def _overrides(
    model: nn.Module, statistics: Statistics, params: ConvertParams, ranged: Collection[str]
) -> list[tuple[set[str], Method]]:
    """Return the tensors that each override matches and its method, in order."""
    kept = kept_modules(model, params.keep_fp32, keeps_head=False)
    overrides = []
    for pattern, method in params.overrides.items():
        names = match_names("convert.overrides", [pattern], statistics.tensors)
        if all(is_kept(name.partition(":")[0], kept) for name in names):
            raise ParamsError(
                f"convert.overrides: {pattern!r} is {method}, but all that it matches stays FP32 by convert.keep_fp32: "
                f"{', '.join(params.keep_fp32)}; drop one of the two"
            )
        if not any(name in ranged for name in names):
            raise ParamsError(
                f"convert.overrides: {pattern!r} is {method}, but {names[0]} gets no range: it stays FP32, is not "
                f"rounded, or {params.engine} fuses it into what follows; drop the override"
            )
        overrides.append((set(names), method))
    return overrides
