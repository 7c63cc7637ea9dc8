"""The sections `convert` and `sensitivity` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Strict

from ptqflow.convert.ranges import Method
from ptqflow.core.engines import Engine
from ptqflow.core.params import Params


class ActivationParams(Params):
    """How the statistics of a tensor become its scale and zero point."""

    method: Method
    """How the range is chosen."""
    percentile: Annotated[float, Field(gt=50, le=100)]
    """Of `method: percentile`: the range reaches from the (100 - percentile)-th to the percentile-th."""
    symmetric: bool
    """Whether the zero point is the middle level."""
    reduce_range: bool | None
    """Whether 7 of 8 bits are used; None: only where a kernel can overflow with all 8."""


class WeightParams(Params):
    """How the scales of weights are chosen."""

    method: Literal["minmax", "mse"]
    """The largest weight, or the least squared error."""
    per_channel: bool
    """Whether each output channel has a scale of its own."""


class ConvertParams(Params):
    """What the INT8 model is made for, and how."""

    engine: Engine
    """The kernels that run it."""
    activation: ActivationParams
    weight: WeightParams
    head: Literal["fp32", "int8"]
    """Precision of the last layer, whose output is the logits."""
    keep_fp32: Annotated[tuple[str, ...], Strict(False)]
    """Names or patterns of modules that stay FP32."""
    overrides: dict[str, Method]
    """Method for tensors by patterns of their names; the first that matches one of those that share a range counts."""
    fuse_additions: bool
    """On `onednn`: whether a residual is added to the sums of a convolution before they are rounded."""
    round_biases: bool
    """Whether biases are whole steps of the sums that they are added to, as other runtimes want them."""
    bias_correction: bool
    """Whether the shift that quantization causes in the mean output of each layer is taken out of its bias."""
    max_drop: Annotated[float, Field(ge=0, le=100)] | None
    """Points of top-1 on val that INT8 may lose: the modules that harm most stay FP32 until it does; None: any."""


class SensitivityParams(Params):
    """On how many images the modules are measured."""

    images: PositiveInt
    """Images of val at most."""
