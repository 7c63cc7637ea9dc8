"""How the pixels of an image become the input of a network."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Strict, model_validator

from ptqflow.core.artifacts import Card

Channels = Annotated[tuple[float, ...], Strict(False)]
Color = Literal["L", "RGB", "RGBA"]
COLORS: Mapping[int, Color] = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of an image by its number of channels: grey, color, or color and opacity."""

InputShape = tuple[int, int, int]
"""Channels, height and width of an image as a network takes it."""


class Normalization(Card):
    """What a network's input is normalized with: (pixel / 255 * input_range - mean) / std."""

    mean: Channels
    """Channel mean, pixels in 0..`input_range`."""
    std: Channels
    """Channel standard deviation, pixels in 0..`input_range`."""
    input_range: Literal[1, 255] = 1
    """What a pixel of 255 is before mean and std: 1, or 255 where they are of pixels in 0..255."""

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return len(self.mean)

    @property
    def divisor(self) -> int:
        """What pixels are divided by before mean and std are applied: 255, or 1, which changes no bit."""
        return 255 // self.input_range

    def in_range(self, input_range: Literal[1, 255]) -> Self:
        """Return the same normalization, for pixels in another range."""
        if input_range == self.input_range:
            return self
        factor = input_range / self.input_range
        mean, std = (tuple(value * factor for value in part) for part in (self.mean, self.std))
        return type(self)(mean=mean, std=std, input_range=input_range)

    @property
    def formula(self) -> str:
        """The computation as text."""
        return f"({'pixel / 255' if self.input_range == 1 else 'pixel'} - mean) / std"

    @model_validator(mode="after")
    def _one_pair_per_channel(self) -> Self:
        if len(self.mean) not in COLORS or len(self.std) != len(self.mean):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}, not both 1, 3 or 4")
        return self
