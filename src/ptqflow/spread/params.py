"""The `calib_spread` section of params.yaml."""

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, Strict

from ptqflow.core.params import Params, distinct


class CalibSpreadParams(Params):
    """Which draws of calibration images are compared."""

    seeds: Annotated[tuple[NonNegativeInt, ...], Strict(False), Field(min_length=2), AfterValidator(distinct)]
    """Of `make spread`: one draw per seed, as with `calib.seed`."""
    batches: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1), AfterValidator(distinct)]
    """Of `make spread`: sizes of each draw, in batches of `calib.batch_size`."""
