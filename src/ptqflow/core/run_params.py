"""The `run` section of params.yaml: how the work is done, which no result depends on and so no stage's cache key."""

from pydantic import NonNegativeInt, PositiveInt

from ptqflow.core.params import Params


class RunParams(Params):
    """Processes, threads, batch sizes and checkpoints; a change of these keys reruns nothing."""

    processes: PositiveInt
    """Processes that share the images of `calib` and `predict`."""
    threads: PositiveInt | None
    """CPU threads on each host, shared by all processes of a stage; null: one per core."""
    batch_size: PositiveInt
    """Images per forward pass in `predict`, `export` and `make spread`, at most as many as have a million pixels."""
    checkpoint_every: NonNegativeInt
    """Epochs between checkpoints, from which a killed training resumes; 0: no checkpoints."""
