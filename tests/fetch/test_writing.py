"""The stored arrays and their card: exact, reproducible, and an error where the disk is full."""

import errno
import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import array_source, random_pixels, save_dataset

from ptqflow.core.normalization import Normalization
from ptqflow.data.dataset import DatasetCard, open_dataset
from ptqflow.fetch.splitting import Decode, Rows
from ptqflow.fetch.writing import read_written, write_images

OUT = Path("dataset")
Labelled = tuple[np.ndarray, np.ndarray]
TRAIN, VAL, TEST = ((random_pixels(n, 8, 8, 3, seed=n), np.arange(n) % 3) for n in (1500, 20, 30))


def save(train: Labelled = TRAIN, directory: Path = OUT, **changes: object) -> DatasetCard:
    return save_dataset(directory, {"train": train, "val": VAL, "test": TEST}, "digits", **changes)


def test_what_was_saved_is_what_is_opened() -> None:
    card = save()
    dataset = open_dataset(OUT)
    assert dataset.card == card
    assert (card.name, card.source, card.classes) == ("digits", "made for a test", ("ant", "bee", "cat"))
    assert (card.preprocessing.size, card.sizes) == ((8, 8), {"train": 1500, "val": 20, "test": 30})
    for written, read in ((TRAIN, dataset.train), (VAL, dataset.val), (TEST, dataset.test)):
        assert (read.images == written[0]).all()
        assert (read.labels == written[1]).all()


def test_images_are_uint8_nhwc_and_labels_int64() -> None:
    save()
    for split, count in (("train", 1500), ("val", 20), ("test", 30)):
        images, labels, digests = (np.load(OUT / f"{split}_{part}.npy") for part in ("images", "labels", "digests"))
        assert (images.dtype, images.shape) == (np.uint8, (count, 8, 8, 3))
        assert (labels.dtype, labels.shape) == (np.int64, (count,))
        assert (digests.dtype, digests.shape) == (np.dtype("V16"), (count,))


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_the_order_in_which_a_source_is_read_changes_nothing(order: str) -> None:
    made, splits = array_source({"train": TRAIN, "val": VAL, "test": TEST})

    def read(rows: Rows) -> Iterator[tuple[Rows, Decode]]:
        steps = list(made.read(rows))
        if order == "shuffled":
            random.Random(0).shuffle(steps)
        yield from steps if order != "descending" else reversed(steps)

    expected = save()
    found = write_images(Path(), replace(made, read=read), splits, (3, 8, 8))
    assert found.sha256 == expected.sha256
    for path in OUT.glob("*.npy"):
        assert Path(path.name).read_bytes() == path.read_bytes()


def test_a_split_is_stored_in_its_own_order() -> None:
    made, splits = array_source({"train": TRAIN, "val": VAL, "test": TEST})
    rows = np.random.default_rng(0).permutation(1500)[:1200]
    write_images(Path(), made, splits | {"train": splits["train"].take(rows)}, (3, 8, 8))
    assert (np.load("train_images.npy") == TRAIN[0][rows]).all()
    assert (np.load("train_labels.npy") == TRAIN[1][rows]).all()


def test_unreadable_images_are_returned_and_the_others_can_be_read_back() -> None:
    made, splits = array_source({"train": TRAIN, "val": VAL, "test": TEST})

    def read(rows: Rows) -> Iterator[tuple[Rows, Decode]]:
        for row in rows.tolist():
            yield np.array([row]), next(made.read(np.array([row])))[1] if row % 10 else lambda: None

    found = write_images(Path(), replace(made, read=read), splits, (3, 8, 8))
    assert found.unreadable.tolist() == list(range(0, 1550, 10))
    assert not found.sha256
    wanted = np.array([1549, 7, 1501, 1502])
    back = {int(rows[0]): decode() for rows, decode in read_written(Path(), splits, (3, 8, 8), wanted)}
    everything = np.concatenate([TRAIN[0], VAL[0], TEST[0]])
    assert sorted(back) == sorted(wanted)
    for row, pixels in back.items():
        assert pixels is not None
        assert (pixels == everything[[row]]).all()


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    card = save()
    values = TRAIN[0].reshape(-1, 3).astype(np.float64) / 255
    assert card.mean == tuple(values.mean(axis=0).round(6))
    assert card.std == tuple(values.std(axis=0).round(6))


@pytest.mark.parametrize("channels", [1, 4])
def test_there_is_a_mean_and_a_std_for_each_channel(channels: int) -> None:
    images = random_pixels(20, 8, 8, channels)
    card = save_dataset(OUT, dict.fromkeys(("train", "val", "test"), (images, np.arange(20) % 3)))
    values = images.reshape(-1, channels).astype(np.float64) / 255
    assert card.mean == tuple(values.mean(axis=0).round(6))
    assert card.std == tuple(values.std(axis=0).round(6))
    assert card.channels == card.normalization.channels == channels
    assert (open_dataset(OUT).test.images == images).all()


def test_normalization_is_the_sources_own_or_that_of_the_training_pixels() -> None:
    own = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    assert save(directory=Path("own"), normalization=own).normalization == own
    card = save()
    assert card.normalization == Normalization(mean=card.mean, std=card.std)


def test_images_of_one_colour_can_be_normalized() -> None:
    card = save((np.full((6, 8, 8, 3), 255, np.uint8), np.arange(6) % 3))
    assert (card.mean, card.std) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert card.normalization == Normalization(mean=card.mean, std=(0.003922, 0.003922, 0.003922))


def test_sha256_is_that_of_the_images_then_the_labels() -> None:
    card = save()
    for name, (images, labels) in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        assert card.sha256[name] == hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def test_digests_are_equal_exactly_where_images_are() -> None:
    twins = TRAIN[0][[0, 1, 0, 2, 1, 0]]
    save((twins, np.arange(6) % 3))
    digests = [bytes(digest) for digest in open_dataset(OUT).train.digests]
    expected = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in twins]
    assert digests == expected
    assert len(set(digests)) == 3


def test_equal_images_make_equal_bytes() -> None:
    save()
    save(directory=Path("again"))
    names = sorted(os.listdir(OUT))
    assert sorted(os.listdir("again")) == names
    for name in names:
        assert (OUT / name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.parametrize(
    ("count", "size", "file"),
    [(10_000, 8, "train_images.npy"), (110_000, 1, "train_labels.npy"), (60_000, 1, "train_digests.npy")],
)
def test_a_full_disk_names_the_file_wherever_it_fills_up(small_disk: Path, count: int, size: int, file: str) -> None:
    train = np.zeros((count, size, size, 3), np.uint8), np.arange(count) % 3
    few = train[0][:3], train[1][:3]
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_dataset(small_disk / "dataset", {"train": train, "val": few, "test": few})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(small_disk / "dataset" / file)
