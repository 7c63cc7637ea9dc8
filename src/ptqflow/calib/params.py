"""The `calib` section of params.yaml."""

from pydantic import NonNegativeInt, PositiveInt

from ptqflow.core.params import Params


class CalibParams(Params):
    """How many training images the observers see, and which."""

    batches: PositiveInt
    """Batches of training images that the observers see."""
    batch_size: PositiveInt
    """Images per batch."""
    seed: NonNegativeInt
    """Seed of the draw of the images."""
