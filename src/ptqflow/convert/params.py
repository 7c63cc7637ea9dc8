"""The sections `convert` and `sensitivity` of params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, Strict

from ptqflow.convert.ranges import Method
from ptqflow.core.engines import Engine
from ptqflow.core.params import Params


class ActivationParams(Params):
    """How the statistics of a tensor become its scale and zero point."""

    method: Literal["auto", Method]
    """How the range of an activation is chosen; auto: as is best for the logits, for all tensors or a single one."""
    percentile: Annotated[float, Field(gt=50, le=100)]
    """For the method `percentile`: the range reaches from the (100 - p)-th to the p-th percentile."""
    symmetric: bool
    """Whether zero is the middle of the quantized levels."""
    reduce_range: bool | None
    """Whether to use 7 of 8 bits; null: only where a kernel can overflow with 8."""


class WeightParams(Params):
    """How the scales of weights are chosen."""

    method: Literal["minmax", "mse"]
    """How the scale of weights is chosen: by the largest weight, or by the least squared error."""
    per_channel: bool
    """Whether each output channel has its own scale; false: one scale per tensor."""


def _check_alpha(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (is_number and 0 <= value <= 1):
        raise ValueError("should be auto, or a number from 0, which is off, to 1")
    return value


class ConvertParams(Params):
    """What the INT8 model is made for, and how."""

    engine: Engine
    """Kernels that run the INT8 model."""
    activation: ActivationParams
    weight: WeightParams
    head: Literal["auto", "fp32", "int8"]
    """Precision of the last layer, whose output is the logits; auto: FP32, unless that is more than a quarter of the
    file and a mebibyte."""
    keep_fp32: Annotated[tuple[str, ...], Strict(False)]
    """Names or patterns of modules or functions that stay FP32, such as `layer4.*` or `add_3`, or types of them, such
    as `add`, `softmax`, `Linear` or `MLPBlock`."""
    overrides: dict[str, Method]
    """Method by pattern of tensor names, such as `{layer4.*: entropy}`; the first pattern that matches one of the
    tensors that share a range counts."""
    fuse_additions: bool
    """Whether `onednn` adds residuals before rounding: nearer to FP32, but slow in ONNX Runtime."""
    round_biases: bool
    """Whether biases are rounded to whole steps of the int32 sums, as in ONNX Runtime; false: FP32 biases, as in torch.
    """
    smooth_quant: Annotated[Literal["auto"] | Annotated[float, Field(ge=0, le=1)], BeforeValidator(_check_alpha)] = (
        "auto"
    )
    """SmoothQuant's alpha: how much of the differences between the channels of a normalization its readers' weights
    take over; 0: off, auto: as is best for the logits."""
    bias_correction: Literal["auto", True, False]
    """Whether the shift that rounded weights cause in each layer is taken out of its bias, where that makes the logits
    of calibration images nearer to FP32; auto: only if it does so for images that it was not chosen on, too."""
    min_sqnr_db: Annotated[float, Field(ge=0, le=100)] | None = 10.0
    """The least SQNR to FP32 in decibels, as the median over images, with which INT8 is accepted; null: no limit."""
    max_drop: Annotated[float, Field(ge=0, le=100)] | None
    """Points of top-1 that INT8 may lose on val: the most harmful modules stay FP32 until it does; null: no limit."""


class SensitivityParams(Params):
    """On how many images the modules are measured."""

    images: PositiveInt
    """Maximum number of val images that each module is measured on."""
