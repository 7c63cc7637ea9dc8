"""The figures of a training in metrics/, from its first epoch on."""

from collections.abc import Callable, Iterable, Sequence

from ptqflow.core.artifacts import write_metrics
from ptqflow.core.figures import EPOCHS, TrainMetrics
from ptqflow.core.ranks import Ranks
from ptqflow.train.checkpoints import or_warn
from ptqflow.train.loop import Epoch, selected
from ptqflow.train.params import TrainParams


def record(epochs: Iterable[Epoch], params: TrainParams, log: Callable[[Epoch], None], ranks: Ranks) -> None:
    """Log each epoch when it ends, and write metrics/train.json and metrics/plots/train.csv of those so far.

    The first rank writes; every rank trains while it takes the epochs. Of an `OSError`, such as of a full disk, the
    training warns and continues.

    Args:
        epochs: of `fit`, one or more.
        params: the section `train`.
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
                _write(done, params)
    if ranks.rank == 0:
        _write(done, params)  # once more: the disk may have room again, else the stage fails here


def _write(epochs: Sequence[Epoch], params: TrainParams) -> None:
    EPOCHS.write(epoch.as_row() for epoch in epochs)
    kept = selected(epochs, params).as_row()
    write_metrics("train", TrainMetrics(epoch=kept.epoch, val_top1=kept.val_top1))
