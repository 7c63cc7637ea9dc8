"""The `model` section of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from ptqflow.core.params import Params

Channel = Annotated[float, Field(ge=0, le=255)]
TIMM = "timm:"
"""Start of the names of timm's networks."""
PositiveChannel = Annotated[float, Field(gt=0, le=255)]
_LIBRARIES = ("torchvision", "timm")


def _is_description(value: str) -> str:
    library, separator, name = value.partition(":")
    if library in _LIBRARIES and bool(separator) == bool(name):
        return value
    raise ValueError(
        "neither torchvision nor timm, nor one of them with the name of weights, such as torchvision:IMAGENET1K_V1"
    )


class ModelParams(Params):
    """Which network, from which weights, with which normalization."""

    name: str
    """A torchvision classifier, `timm:NAME` for one of timm's, or `module:function` of your own, which is called with
    `num_classes`."""
    weights: Annotated[str, Field(min_length=1)] | None
    """null, the name of published weights, torchvision's such as `IMAGENET1K_V1` or timm's such as `a1_in1k`, or the
    path of a state_dict or a checkpoint around one (`.pt`, `.ckpt` or `.safetensors`)."""
    stem: Literal["standard", "small"]
    """`small` replaces the first convolution of a ResNet by a 3x3 stride-1 one and removes the max-pool, for small
    images."""
    mean: Annotated[tuple[Channel, ...], Strict(False)] | None
    """Mean of each channel that the weights expect, pixels in 0..`input_range`; null: what `preprocessing` says, else
    that of weights which timm publishes, else of the data set."""
    std: Annotated[tuple[PositiveChannel, ...], Strict(False)] | None
    """Standard deviation of each channel that the weights expect, pixels in 0..`input_range`; null: as `mean`."""
    input_range: Literal[1, 255] = 1
    """Largest value of a pixel before mean and std: 1, or 255 for weights whose mean and std are of pixels in 0..255,
    such as Caffe's."""
    preprocessing: Annotated[str, AfterValidator(_is_description)] | None = None
    """Where the keys of `data` that are null, `mean` and `std` come from: `torchvision` or `timm` take what is
    published with `weights`; `torchvision:IMAGENET1K_V2` or `timm:a1_in1k` what is published with weights of that name,
    for a file of your own. null: from the keys alone."""

    classes: Annotated[str, Field(min_length=1)] | None = None
    """For images without labels: a text file with the name of a class a line, in the order of the network's outputs;
    null: the names that are published with the weights, else numbers."""

    @property
    def is_user_code(self) -> bool:
        """Whether `name` is `module:function`."""
        return is_user_code(self.name)

    @property
    def library(self) -> str:
        """Where networks with names like this one's come from: torchvision or timm."""
        return "timm" if self.is_timm else "torchvision"

    @property
    def is_timm(self) -> bool:
        """Whether `name` is that of a network of timm."""
        return self.name.startswith(TIMM)

    @model_validator(mode="after")
    def _mean_comes_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            missing = "std" if self.std is None else "mean"
            raise ValueError(f"model.{missing} is null while the other is set; set both or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"model.mean has {len(self.mean)} values and model.std {len(self.std)}; set one of each per channel"
            )
        return self

    @model_validator(mode="after")
    def _mean_is_in_the_range(self) -> Self:
        if self.mean is None or self.std is None:
            return self
        for key, values in (("mean", self.mean), ("std", self.std)):
            if max(values, default=0) > self.input_range:
                raise ValueError(
                    f"model.{key} is {list(values)}, beyond the range of pixels, which is 0..1; divide it by 255, or "
                    "set model.input_range=255 if the weights expect pixels in 0..255"
                )
        if self.input_range == 255 and 0 < max(self.mean, default=0) <= 1:
            raise ValueError(
                f"model.mean is {list(self.mean)}, of pixels in 0..1, and model.input_range is 255; multiply mean and "
                "std by 255, or set input_range to 1"
            )
        return self


def is_user_code(name: str) -> bool:
    """Return whether a name of a network is `module:function`."""
    return ":" in name and not name.startswith(TIMM)
