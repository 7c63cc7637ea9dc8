"""The `calib` section of params.yaml."""

from pydantic import NonNegativeInt, PositiveInt

from ptqflow.core.params import Params


class CalibParams(Params):
    """How many training images the observers see, and which."""

    batches: PositiveInt
    """Batches of images."""
    batch_size: PositiveInt
    """Images a batch."""
    seed: NonNegativeInt
    """Which images are drawn."""
