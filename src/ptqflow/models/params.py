"""The `model` section of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from ptqflow.core.params import Params

Channel = Annotated[float, Field(ge=0, le=1)]
TIMM = "timm:"
"""Start of the names of timm's networks."""
PositiveChannel = Annotated[float, Field(gt=0, le=1)]


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
    """Mean of each channel that the weights expect, pixels in 0..1; null: that of weights which timm
    publishes, else of the data set."""
    std: Annotated[tuple[PositiveChannel, ...], Strict(False)] | None
    """Standard deviation of each channel that the weights expect, pixels in 0..1; null: as `mean`."""

    @property
    def is_user_code(self) -> bool:
        """Whether `name` is `module:function`."""
        return is_user_code(self.name)

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


def is_user_code(name: str) -> bool:
    """Return whether a name of a network is `module:function`."""
    return ":" in name and not name.startswith(TIMM)
