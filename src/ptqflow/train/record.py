"""The figures of a training in metrics/plots, from its first epoch on."""

from collections.abc import Callable, Iterable

from ptqflow.core.figures import EPOCHS
from ptqflow.core.ranks import Ranks
from ptqflow.train.checkpoints import or_warn
from ptqflow.train.loop import Epoch


def record(epochs: Iterable[Epoch], log: Callable[[Epoch], None], ranks: Ranks) -> None:
    """Log each epoch when it ends, and write metrics/plots/train.csv of those so far.

    The first rank writes; every rank trains while it takes the epochs. Of an `OSError`, such as of a full disk, the
    training warns and continues.

    Args:
        epochs: of `fit`, one or more.
        log: of `live_log`.
        ranks: the processes that train.

    Raises:
        OSError: the figures of the last epoch cannot be written.
    """
    done = []
    for epoch in epochs:
        done.append(epoch)
        if ranks.rank == 0:
            with or_warn(f"figures of epoch {epoch.epoch} not written"):
                log(epoch)
                EPOCHS.write(epoch.as_row() for epoch in done)
    if ranks.rank == 0:
        EPOCHS.write(epoch.as_row() for epoch in done)  # the disk may have room again, else the stage fails here
