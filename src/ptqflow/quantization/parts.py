"""Activation statistics that several ranks collect, each on a part of the images."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray

from ptqflow.data.dataset import Split
from ptqflow.quantization.calibration import input_batches
from ptqflow.quantization.statistics import Observed, Statistics, batches_together, collect_statistics, decode, encode
from ptqflow.ranks import Ranks


def collect_in_parts(
    observed: Observed,
    split: Split,
    rows: NDArray[np.int64],
    mean: Sequence[float],
    std: Sequence[float],
    ranks: Ranks,
) -> Statistics:
    """Return what all ranks have seen of the images: the same, to the last bit, for any number of ranks.

    What one process would run through the network together stays together, so every pass is the same, and statistics
    merge exactly.

    Args:
        observed: of which nothing was collected before.
        split: where the images are.
        rows: (batches, batch size), rows of the split.
        mean: to normalize with, as `std`.
        std: see `mean`.
        ranks: all of which call this.

    Raises:
        ModelError: as `collect_statistics`.
    """
    example = next(input_batches(split, rows[:1], mean, std))
    size = batches_together(observed.prepared, example)
    part = ranks.part(-(-len(rows) // size))
    own = rows[part.start * size : part.stop * size]
    data = encode(collect_statistics(observed, input_batches(split, own, mean, std), own)) if len(own) else b""
    parts = ranks.gather(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
    return reduce(Statistics.merged, (decode(one.numpy().tobytes()) for one in parts if len(one)))
