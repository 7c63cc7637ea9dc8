"""The stored arrays and their card: exact, reproducible, and an error where the disk is full."""

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from samples import pool, random_pixels, source

from ptqflow.core.normalization import Normalization
from ptqflow.data.dataset import DatasetCard, open_dataset
from ptqflow.fetch.splitting import Pool, Source
from ptqflow.fetch.writing import save_dataset

OUT = Path("dataset")
TRAIN, VAL, TEST = (pool(random_pixels(n, 8, 8, 3, seed=n), np.arange(n) % 3) for n in (1500, 20, 30))


def save(train: Pool = TRAIN, directory: Path = OUT, made_of: Source | None = None) -> DatasetCard:
    directory.mkdir()
    return save_dataset(directory, "digits", made_of or source(train), {"train": train, "val": VAL, "test": TEST})


def test_what_was_saved_is_what_is_opened() -> None:
    card = save()
    dataset = open_dataset(OUT)
    assert dataset.card == card
    assert (card.name, card.source, card.classes) == ("digits", "made for a test", ("ant", "bee", "cat"))
    assert (card.image_size, card.sizes) == (8, {"train": 1500, "val": 20, "test": 30})
    for written, read in ((TRAIN, dataset.train), (VAL, dataset.val), (TEST, dataset.test)):
        assert (read.images == written.pixels).all()
        assert (read.labels == written.labels).all()


def test_images_are_uint8_nhwc_and_labels_int64() -> None:
    save()
    for split, count in (("train", 1500), ("val", 20), ("test", 30)):
        images, labels, digests = (np.load(OUT / f"{split}_{part}.npy") for part in ("images", "labels", "digests"))
        assert (images.dtype, images.shape) == (np.uint8, (count, 8, 8, 3))
        assert (labels.dtype, labels.shape) == (np.int64, (count,))
        assert (digests.dtype, digests.shape) == (np.dtype("V16"), (count,))


def test_only_the_rows_of_a_pool_are_saved_in_its_order() -> None:
    rows = np.random.default_rng(0).permutation(1500)[:1200]
    save(TRAIN.take(rows))
    train = open_dataset(OUT).train
    assert (train.images == TRAIN.pixels[rows]).all()
    assert (train.labels == TRAIN.labels[rows]).all()


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    card = save()
    values = TRAIN.pixels.reshape(-1, 3).astype(np.float64) / 255
    assert card.mean == tuple(values.mean(axis=0).round(6))
    assert card.std == tuple(values.std(axis=0).round(6))


@pytest.mark.parametrize("channels", [1, 4])
def test_there_is_a_mean_and_a_std_for_each_channel(channels: int) -> None:
    pools = {split: pool(random_pixels(20, 8, 8, channels), np.arange(20) % 3) for split in ("train", "val", "test")}
    OUT.mkdir()
    card = save_dataset(OUT, "digits", source(pools["train"]), pools)
    values = pools["train"].pixels.reshape(-1, channels).astype(np.float64) / 255
    assert card.mean == tuple(values.mean(axis=0).round(6))
    assert card.std == tuple(values.std(axis=0).round(6))
    assert card.channels == card.normalization.channels == channels
    assert (open_dataset(OUT).test.images == pools["test"].pixels).all()


def test_normalization_is_the_sources_own_or_that_of_the_training_pixels() -> None:
    own = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    assert save(directory=Path("own"), made_of=source(TRAIN, normalization=own)).normalization == own
    card = save()
    assert card.normalization == Normalization(mean=card.mean, std=card.std)


def test_images_of_one_colour_can_be_normalized() -> None:
    card = save(pool(np.full((6, 8, 8, 3), 255, np.uint8), np.arange(6) % 3))
    assert (card.mean, card.std) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert card.normalization == Normalization(mean=card.mean, std=(0.003922, 0.003922, 0.003922))


def test_sha256_is_that_of_the_images_then_the_labels() -> None:
    card = save()
    for name, split in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        assert card.sha256[name] == hashlib.sha256(split.pixels.tobytes() + split.labels.tobytes()).hexdigest()


def test_digests_are_equal_exactly_where_images_are() -> None:
    twins = TRAIN.take(np.array([0, 1, 0, 2, 1, 0]))
    save(twins)
    digests = [bytes(digest) for digest in open_dataset(OUT).train.digests]
    expected = [hashlib.blake2b(twins.pixels[row].tobytes(), digest_size=16).digest() for row in twins.rows]
    assert digests == expected
    assert len(set(digests)) == 3


def test_equal_images_make_equal_bytes_wherever_they_come_from() -> None:
    save()
    np.save("pixels.npy", TRAIN.pixels[::-1])
    mapped = Pool(np.load("pixels.npy", mmap_mode="r"), np.arange(1500)[::-1], TRAIN.labels)
    save(mapped, Path("again"))
    names = sorted(os.listdir(OUT))
    assert sorted(os.listdir("again")) == names
    for name in names:
        assert (OUT / name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.parametrize(
    ("count", "size", "file"),
    [(10_000, 8, "train_images.npy"), (110_000, 1, "train_labels.npy"), (60_000, 1, "train_digests.npy")],
)
def test_a_full_disk_names_the_file_wherever_it_fills_up(small_disk: Path, count: int, size: int, file: str) -> None:
    train = pool(np.zeros((count, size, size, 3), np.uint8), np.arange(count) % 3)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(train, small_disk / "dataset")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(small_disk / "dataset" / file)
