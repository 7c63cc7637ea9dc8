"""The section `train` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ptqflow.core.params import Params

MIN_PER_RANK = 2
"""Images of each batch that a rank needs: batch normalization of a single image may have no variance."""


class TrainParams(Params):
    """The recipe of the training, and its devices."""

    epochs: NonNegativeInt
    """Epochs of training; 0 takes `model.weights` unchanged."""
    batch_size: Annotated[int, Field(ge=MIN_PER_RANK)]
    """Images per step, over all devices; two or more for each."""
    lr: PositiveFloat
    """Learning rate of SGD; with `one_cycle`, its maximum."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat
    """L2 penalty."""
    decay_norm: bool
    """Whether weight decay applies to the parameters of normalization layers."""
    schedule: Literal["constant", "one_cycle"]
    """Learning rate after the warm-up: constant, or torch's `OneCycleLR`."""
    warmup_epochs: NonNegativeFloat | None
    """Epochs, or a fraction of one, in which the learning rate rises; null: 30 % of a cycle, none for a constant rate.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of each label that is spread evenly over all classes."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the exponential moving average of the weights, which is then evaluated and kept; 0: no average.
    """
    select: Literal["last", "best"]
    """Epoch whose weights are kept: the last one, or the one with the best top-1 on val."""
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    """Black pixels added on each side before the random crop; 0: no crop."""
    horizontal_flip: bool | None
    """Whether to mirror half of the images; null: what the data set allows (not digits)."""
    cutout: Annotated[int, Field(ge=0, le=512)]
    """Side in pixels of the square that is hidden in each image; 0: none."""
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    """Seed of the initial weights, the order of the images and the augmentation."""
    devices: PositiveInt
    """Processes on each host, each with a GPU of its own, or with its share of the CPU's cores."""
    nodes: PositiveInt
    """Number of hosts."""
    precision: Literal["fp32", "bf16"] | None
    """Precision of convolutions and linear layers; weights are always FP32. null: bf16 on a GPU that supports it, else
    fp32."""
    sync_batchnorm: bool
    """Whether batch normalization on several GPUs uses the statistics of the whole batch (`nn.SyncBatchNorm`); of
    several CPU processes, each always normalizes its own share."""
    channels_last: bool
    """Whether values lie in memory with the channels last, which is faster; false: for a network that cannot be trained
    so. One for which CPU kernels are known to fail never is."""

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
        if self.batch_size < MIN_PER_RANK * devices:
            raise ValueError(
                f"train.batch_size is {self.batch_size}: each of {devices} devices needs {MIN_PER_RANK} images, so it "
                f"must be {MIN_PER_RANK * devices} at least"
            )
        return self
