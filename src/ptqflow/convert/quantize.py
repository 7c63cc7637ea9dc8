"""From an FP32 network and its statistics to an INT8 one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule

from ptqflow.calib.sampling import hash_rows
from ptqflow.calib.statistics import Statistics
from ptqflow.convert.bias_correction import Correction, correct_biases
from ptqflow.convert.concatenations import unequal_concatenations
from ptqflow.convert.criterion import draw_images
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.convert.ranges import QParams
from ptqflow.convert.weight_scales import mse_scales
from ptqflow.core.errors import ParamsError
from ptqflow.data.dataset import Split
from ptqflow.fx.artifact import Int8Card
from ptqflow.fx.bias_rounding import fit_biases
from ptqflow.fx.convert import MissingKernelError, convert
from ptqflow.fx.prepare import Scheme, prepare
from ptqflow.fx.qparams import TensorQParams
from ptqflow.models.fp32 import ModelCard

_LEAST_DB = 0.1
"""That bias correction must gain to be kept by `auto`."""


@dataclass(frozen=True)
class Quantized:
    """An INT8 network and how it came about."""

    card: Int8Card
    qparams: dict[str, QParams]
    """Scale and zero point of each tensor; none without statistics."""
    prepared: GraphModule
    """With observers, before `convert_fx`."""
    converted: GraphModule
    correction: Correction | None
    """Of the biases; None where none was tried."""

    @property
    def scheme(self) -> Scheme:
        """What is quantized, and to which levels."""
        return self.card.scheme


def quantize(
    model: nn.Module,
    card: ModelCard,
    params: ConvertParams,
    statistics: Statistics | None,
    train: Split,
    also_fp32: Sequence[str] = (),
) -> Quantized:
    """Quantize a network, which stays unchanged.

    Args:
        model: FP32, in evaluation mode.
        card: of the model.
        params: the `convert` section.
        statistics: what `calib` collected; without them every scale is 1, which makes the uncalibrated control.
        train: the split that the calibration images are from; read for bias correction alone.
        also_fp32: names of modules that stay FP32 besides those of the params.

    Raises:
        ParamsError: the params do not fit the network.
        ArtifactError: the statistics belong to another network.
        EngineError: this machine lacks the engine.
        ModelError: the network cannot be traced or converted, or does not run on this engine.
    """
    scheme = resolve_scheme(model, params, also_fp32)
    while True:
        try:
            return _quantize(model, card, params, scheme, statistics, train, idle_overrides=bool(also_fp32))
        except MissingKernelError as error:
            if error.step in scheme.without_kernel:
                raise
            scheme = scheme.model_copy(update={"without_kernel": (*scheme.without_kernel, error.step)})


def require_int8_layers(quantized: Quantized, params: ConvertParams, also_fp32: Sequence[str] = ()) -> None:
    """Require that something is quantized.

    Raises:
        ParamsError: `convert.keep_fp32`, `convert.head` and what stays FP32 for `convert.max_drop` leave nothing.
    """
    if quantized.qparams:
        return
    if also_fp32:
        raise ParamsError(
            f"convert.max_drop={params.max_drop} and convert.keep_fp32={list(params.keep_fp32)} leave no layer to "
            "quantize; raise it, or name fewer"
        )
    if params.keep_fp32:
        raise ParamsError(f"convert.keep_fp32={list(params.keep_fp32)} leaves no layer to quantize; name fewer")
    if params.head != "int8":
        raise ParamsError(f"convert.head={params.head} leaves no layer to quantize; set it to int8")
    raise ParamsError(f"model.name: {quantized.card.model.name} has no layer that can be quantized")


def _quantize(
    model: nn.Module,
    card: ModelCard,
    params: ConvertParams,
    scheme: Scheme,
    statistics: Statistics | None,
    train: Split,
    *,
    idle_overrides: bool,
) -> Quantized:
    prepared = prepare(model, card.input_shape, scheme, mse_scales)
    if statistics and (unequal := unequal_concatenations(model, prepared, statistics)):
        scheme = scheme.model_copy(update={"unequal": unequal})
        prepared = prepare(model, card.input_shape, scheme, mse_scales)
    qparams = {}
    if statistics:
        qparams = set_ranges(model, prepared, scheme, statistics, params, idle_overrides=idle_overrides)
    correction = None
    if statistics and params.bias_correction:
        images, held_out = draw_images(model, card.normalization, train, statistics.rows)
        checks = (held_out, _LEAST_DB) if params.bias_correction == "auto" else ()
        correction = correct_biases(prepared, images, *checks)
    converted = convert(prepared, scheme, card.input_shape)
    fit_biases(converted, card.input_shape, rounded=params.round_biases)
    int8_card = Int8Card(
        scheme=scheme,
        model=card,
        calibration_images=statistics.rows.size if statistics else 0,
        min_sqnr_db=params.min_sqnr_db if statistics else None,
        calibration_sha256=hash_rows(statistics.rows) if statistics else "",
        qparams={
            name: TensorQParams(scale=chosen.scale, zero_point=chosen.zero_point) for name, chosen in qparams.items()
        },
    )
    return Quantized(int8_card, qparams, prepared, converted, correction)
