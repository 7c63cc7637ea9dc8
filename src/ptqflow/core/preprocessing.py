"""How an image file becomes the pixels of a network's input: the one description that all cards hold."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ptqflow.core.artifacts import Card
from ptqflow.core.normalization import COLORS, Color, InputShape

Resize = Literal["fit", "short_side", "squash", "letterbox"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
ColorOrder = Literal["L", "RGB", "RGBA", "BGR"]
LARGEST_SIDE = 4096

_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_ResizedSide = Annotated[int, Field(ge=1, le=2 * LARGEST_SIDE)]
_Value = Annotated[int, Field(ge=0, le=255)]


class Preprocessing(Card):
    """From an upright image of any size to uint8 pixels of shape (height, width, channels)."""

    height: _Side
    """Of the network's input, in pixels."""
    width: _Side
    color: ColorOrder
    """The channels in their order."""
    resize: Resize
    """`fit`: the largest part at the center that has the proportions of `resized` is scaled to it in one step.
    `short_side`: the image is scaled until it covers `resized`. `squash`: it is scaled to `resized`, whatever its
    proportions. `letterbox`: it is scaled until it fits into `resized`. Then the center is cropped to height and width,
    or surrounded with `fill` where it is smaller."""
    resized: tuple[_ResizedSide, _ResizedSide]
    """Height and width that the image is resized to before the crop."""
    interpolation: Interpolation
    antialias: bool
    """Whether the filter grows with the scale, as Pillow's does; without, a value comes from 2 x 2 or 4 x 4 pixels."""
    fill: tuple[_Value, ...]
    """Value of each channel around an image that is smaller than height and width, in the order of Pillow's mode."""

    @classmethod
    def default(cls, size: tuple[int, int], color: ColorOrder = "RGB") -> Self:
        """Return the preprocessing of params that state only a size: `fit`, bilinear."""
        return cls(
            height=size[0],
            width=size[1],
            color=color,
            resize="fit",
            resized=size,
            interpolation="bilinear",
            antialias=True,
            fill=(0,) * len(color),
        )

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return len(self.color)

    @property
    def mode(self) -> Color:
        """Pillow's mode of an image before its channels are put in order."""
        return COLORS[self.channels]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def input_shape(self) -> InputShape:
        """Channels, height and width of an image."""
        return self.channels, self.height, self.width

    @property
    def keeps_its_size(self) -> bool:
        """Whether an image that already has the size stays unchanged."""
        return self.resized == self.size

    @property
    def may_scale_jpeg(self) -> bool:
        """Whether a JPEG may be decoded at a part of its size, which no other library's transform equals to the bit."""
        return self.resize == "fit" and self.interpolation == "bilinear" and self.antialias

    @model_validator(mode="after")
    def _fill_has_the_channels(self) -> Self:
        if len(self.fill) != self.channels:
            raise ValueError(f"fill has {len(self.fill)} values, and {self.color} has {self.channels} channels")
        return self

    @model_validator(mode="after")
    def _lanczos_is_antialiased(self) -> Self:
        if self.interpolation == "lanczos" and not self.antialias:
            raise ValueError("lanczos without antialiasing does not exist")
        return self

    def __str__(self) -> str:
        return ", ".join(self._steps())

    def _steps(self) -> Iterator[str]:
        resized = in_pixels(self.resized)
        yield {
            "fit": f"cropped at the center to the proportions of {resized}, resized to {resized}",
            "short_side": f"short side resized to {self.resized[0]}"
            if self.resized[0] == self.resized[1]
            else f"resized to cover {resized}",
            "squash": f"resized to {resized} whatever its proportions",
            "letterbox": f"resized to fit into {resized}",
        }[self.resize] + f" ({self.interpolation}{'' if self.antialias else ', no antialiasing'})"
        if self.resize == "letterbox":
            yield f"surrounded with {'/'.join(map(str, self.fill))} to {in_pixels(self.size)}"
        elif self.resize == "short_side" or not self.keeps_its_size:
            yield f"cropped at the center to {in_pixels(self.size)}"
        yield self.color


def in_pixels(size: tuple[int, int]) -> str:
    """Return height and width as text, such as 48x32."""
    return f"{size[0]}x{size[1]}"
