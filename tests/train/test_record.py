from collections.abc import Iterator
from pathlib import Path

import pytest

from ptqflow.core.errors import PtqflowWarning
from ptqflow.core.figures import EPOCHS
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.data.accuracy import Evaluation
from ptqflow.train.loop import Epoch
from ptqflow.train.record import record

TOP1 = (0.5, 0.75, 0.25)
TRAINED = [Epoch(n, 1 / n, 0.5, Evaluation(top1=top1, top5=None, loss=0.5)) for n, top1 in enumerate(TOP1, 1)]


def test_the_curve_grows_with_each_epoch() -> None:
    seen = []

    def trained() -> Iterator[Epoch]:
        for epoch in TRAINED:
            yield epoch
            seen.append([row.epoch for row in EPOCHS.read()])

    logged: list[Epoch] = []
    record(trained(), logged.append, ALONE)
    assert logged == TRAINED
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_a_disk_that_is_full_for_an_epoch_costs_a_warning_and_the_figures_are_complete_at_the_end() -> None:
    def trained() -> Iterator[Epoch]:
        Path("metrics").write_text("no folder can be made here")
        yield TRAINED[0]
        Path("metrics").unlink()
        yield TRAINED[1]

    with pytest.warns(PtqflowWarning, match="figures of epoch 1 not written; training continues"):
        record(trained(), lambda _: None, ALONE)
    assert [row.epoch for row in EPOCHS.read()] == [1, 2]


def test_where_the_figures_of_the_last_epoch_cannot_be_written_the_stage_fails() -> None:
    Path("metrics").write_text("no folder can be made here")
    with (
        pytest.warns(PtqflowWarning, match="figures of epoch 1 not written"),
        pytest.raises(OSError, match="metrics"),
    ):
        record(TRAINED[:1], lambda _: None, ALONE)


def test_another_rank_than_the_first_trains_and_writes_nothing() -> None:
    left = iter(TRAINED)
    record(left, pytest.fail, Ranks(1, 2))
    assert list(left) == []
    assert not Path("metrics").exists()
