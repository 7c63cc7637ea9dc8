"""The section `train` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ptqflow.core.params import Params


class TrainParams(Params):
    """The recipe, and what runs it."""

    epochs: NonNegativeInt
    """0 takes `model.weights` as they are."""
    batch_size: Annotated[int, Field(ge=2)]
    """Images a step, of all devices together."""
    lr: PositiveFloat
    """Learning rate of SGD, at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat
    """L2 penalty."""
    decay_norm: bool
    """Whether the weights and biases of normalization layers are penalized too."""
    schedule: Literal["constant", "one_cycle"]
    """How the learning rate goes on after the warm-up."""
    warmup_epochs: NonNegativeFloat | None
    """Epochs, or a part of one, in which the learning rate rises; None: 30 % of a cycle, none of a constant rate."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of each label that is spread evenly over all classes."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay a step of the moving average of the weights, which is then what is evaluated and kept; 0: none."""
    select: Literal["last", "best"]
    """Which epoch's weights are kept: the last, or the one with the best top-1 on val."""
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    """Pixels of black around the image before the random crop; 0 crops nothing."""
    horizontal_flip: bool | None
    """Whether to mirror half of the images; None: what the data set allows."""
    cutout: Annotated[int, Field(ge=0, le=512)]
    """Side in pixels of the square that is hidden in each image; 0: none."""
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    """Initial weights, order of the images, augmentation."""
    devices: PositiveInt
    """Processes on each host, each with a GPU of its own, or with its share of the CPU's cores."""
    nodes: PositiveInt
    """Hosts."""
    precision: Literal["fp32", "bf16"] | None
    """Of convolutions and linear layers; the weights are always FP32. None: bf16 on a GPU that has it, else fp32."""
    sync_batchnorm: bool
    """Whether batch normalization sees the whole batch where it is spread over several devices."""

    @property
    def least_share(self) -> int:
        """Images that each device needs of a batch: where it normalizes apart, as many as have a variance."""
        return 1 if self.sync_batchnorm else 2

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs is not None and self.epochs and self.warmup_epochs > self.epochs:
            raise ValueError(
                f"train.warmup_epochs is {self.warmup_epochs}, and train.epochs {self.epochs}: it may not be more"
            )
        return self

    @model_validator(mode="after")
    def _every_device_has_enough(self) -> Self:
        devices = self.devices * self.nodes
        if self.batch_size < self.least_share * devices:
            needs = "needs an image" if self.sync_batchnorm else "without train.sync_batchnorm needs two"
            raise ValueError(
                f"train.batch_size is {self.batch_size}: each of {devices} devices {needs}, so it must be "
                f"{self.least_share * devices} at least"
            )
        return self
