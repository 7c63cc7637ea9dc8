"""How the pixels of an image become the input of a network."""

from typing import Annotated

from pydantic import Strict

from ptqflow.core.artifacts import Card

Channels = Annotated[tuple[float, float, float], Strict(False)]


class Normalization(Card):
    """What a network's input is normalized with: (pixel / 255 - mean) / std."""

    mean: Channels
    """Channel mean, pixels in 0..1."""
    std: Channels
    """Channel standard deviation, pixels in 0..1."""
