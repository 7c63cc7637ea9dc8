from dataclasses import replace
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch

from ptqflow.core.ranks import Ranks
from ptqflow.data.dataset import Split
from ptqflow.train import batches as module
from ptqflow.train.augmentation import draw_epoch
from ptqflow.train.batches import Batches

CPU = torch.device("cpu")


def epoch(split: Split, size: int, rank: int = 0, ranks: int = 1) -> list[module.Batch]:
    draws = draw_epoch(len(split), 2, flip=True, seed=0, epoch=1)
    return list(Batches(split, size, Ranks(rank, ranks), CPU).epoch(draws))


@pytest.mark.parametrize(
    ("count", "size", "totals"),
    [(30, 8, [8, 8, 8, 6]), (33, 8, [8] * 4), (8, 8, [8]), (2, 8, [2]), (7, 100, [7]), (24, 8, [8] * 3)],
)
def test_an_epoch_is_all_images_once_in_the_order_drawn_but_for_a_last_one_alone(
    count: int, size: int, totals: list[int]
) -> None:
    split = miniature.split(count)
    found = epoch(split, size)

    draws = draw_epoch(count, 2, flip=True, seed=0, epoch=1)[: sum(totals)]
    assert [batch.total for batch in found] == [len(batch.images) for batch in found] == totals
    assert Batches(split, size, Ranks(), CPU).totals() == totals
    assert np.array_equal(torch.cat([batch.images for batch in found]), split.images[draws.order])
    assert np.array_equal(torch.cat([batch.labels for batch in found]), split.labels[draws.order])
    assert torch.equal(torch.cat([batch.draws.places for batch in found]), draws.places)
    assert torch.equal(torch.cat([batch.draws.mirrored for batch in found]), draws.mirrored)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_shares_of_the_ranks_are_the_batch_without_overlap(ranks: int) -> None:
    split = miniature.split(34)
    whole = epoch(split, 12)
    shares = [epoch(split, 12, rank, ranks) for rank in range(ranks)]

    for batch, *slices in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([one.images for one in slices]), batch.images)
        assert torch.equal(torch.cat([one.draws.places for one in slices]), batch.draws.places)
        assert {one.total for one in slices} == {batch.total}
        sizes = [len(one.images) for one in slices]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("count", "ranks", "last"), [(29, 2, 5), (28, 2, 4), (27, 2, None), (29, 3, None), (30, 3, 6)])
def test_a_last_batch_of_fewer_than_two_images_a_rank_is_left_out(count: int, ranks: int, last: int | None) -> None:
    totals = Batches(miniature.split(count), 8, Ranks(0, ranks), CPU).totals()
    assert totals == [8, 8, 8, *([last] if last else [])]


def mapped(folder: Path, count: int) -> Split:
    np.save(folder / "images.npy", miniature.images(count))
    return replace(miniature.split(count), images=np.load(folder / "images.npy", mmap_mode="r"))


def test_images_on_disk_make_the_same_batches(tmp_path: Path) -> None:
    on_disk = epoch(mapped(tmp_path, 100), 8)
    assert all(
        torch.equal(batch.images, other.images)
        for batch, other in zip(on_disk, epoch(miniature.split(100), 8), strict=True)
    )


def mapped_bytes(file: Path) -> int:
    """Return how much of a file is in the memory of this process."""
    lines = Path("/proc/self/smaps").read_text().split(str(file))[1].splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))


def test_released_pages_leave_the_memory_also_through_a_slice_of_the_split(tmp_path: Path) -> None:
    split = mapped(tmp_path, 20_000)
    split.images.sum()
    before = mapped_bytes(tmp_path / "images.npy")
    split[10:20].release()

    assert mapped_bytes(tmp_path / "images.npy") < before / 10
    assert np.array_equal(split.images, miniature.images(20_000))
    miniature.split(3).release()  # images in memory stay


def test_reading_ends_with_the_loop_that_reads() -> None:
    reading = Batches(miniature.split(30), 2, Ranks(), CPU).epoch(draw_epoch(30, 0, flip=False, seed=0, epoch=1))
    next(reading)
    reading.close()
