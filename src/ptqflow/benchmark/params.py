"""The `benchmark` section of params.yaml."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, Strict

from ptqflow.core.params import Params, distinct


class BenchmarkParams(Params):
    """What is timed, and for how long."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1), AfterValidator(distinct)]
    """Images at a time."""
    threads: PositiveInt | None
    """Of every runtime; None takes all cores."""
    rounds: Annotated[int, Field(ge=3)]
    """Turns that FP32 and INT8 take at each batch size."""
    seconds: PositiveFloat
    """Of timed runs of each network at each batch size; it takes longer where a run is longer than a round."""
