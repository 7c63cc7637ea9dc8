"""The `benchmark` section of params.yaml."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, Strict

from ptqflow.core.params import Params, distinct


class BenchmarkParams(Params):
    """What is timed, and for how long."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1), AfterValidator(distinct)]
    """Of `make benchmark`: images per run."""
    threads: PositiveInt | None
    """Of `make benchmark`: CPU threads of every runtime; null: all cores."""
    rounds: Annotated[int, Field(ge=3)]
    """Of `make benchmark`: turns of FP32 and INT8 at each batch size."""
    seconds: PositiveFloat
    """Of `make benchmark`: seconds of timed runs per network and batch size; more where one run takes longer than a
    round."""
