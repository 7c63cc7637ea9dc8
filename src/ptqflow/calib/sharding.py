"""Activation statistics that several ranks collect, each on a part of the images."""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ptqflow.calib.collection import Observed, batches_together, collect_statistics
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.statistics import Statistics, decode, encode
from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import Ranks
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import Split


def collect_in_parts(
    observed: Observed,
    split: Split,
    rows: NDArray[np.int64],
    normalization: Normalization,
    ranks: Ranks,
) -> Statistics:
    """Return what all ranks have seen of the images: the same, to the last bit, for any number of ranks.

    What one process would run through the network together stays together, so every pass is the same, and statistics
    merge exactly. A batch of large images runs in equal parts, as many as its pixels need, so that memory is bounded.

    Args:
        observed: of which nothing was collected before.
        split: where the images are.
        rows: (batches, batch size), rows of the split.
        normalization: of the network's input.
        ranks: all of which call this.

    Raises:
        ModelError: as `collect_statistics`.
    """
    batch_size = rows.shape[1]
    most = images_per_pass(split.size, batch_size)
    rows = rows.reshape(-1, next(count for count in range(most, 0, -1) if batch_size % count == 0))
    example = next(input_batches(split, rows[:1], normalization))
    size = batches_together(observed.prepared, example)
    share = ranks.part(-(-len(rows) // size))
    own = rows[share.start * size : share.stop * size]
    data = encode(collect_statistics(observed, input_batches(split, own, normalization), own)) if len(own) else b""
    merged = reduce(Statistics.merged, (decode(part) for part in ranks.gather_bytes(data) if part))
    return merged.in_batches(batch_size)
