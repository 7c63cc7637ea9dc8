import hashlib
import struct
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from samples import save_dataset

from ptqflow.calib.sampling import Draw, draw_images, input_batches
from ptqflow.core.errors import DataError
from ptqflow.data.dataset import Dataset, open_dataset
from ptqflow.data.preprocessing import to_input

TRAIN, LEAKED = 50, (3, 17, 18, 42, 49)


def store(directory: Path, **pixels: NDArray[np.uint8]) -> Dataset:
    splits = {split: (images, np.arange(len(images)) % len(miniature.CLASSES)) for split, images in pixels.items()}
    save_dataset(directory, splits, classes=miniature.CLASSES)
    return open_dataset(directory)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """50 training images, of which rows 3 and 17 lie in val, 18, 42 and 49 in test, and row 5 is row 4 once more."""
    train = miniature.images(TRAIN)
    train[5] = train[4]
    val = np.concatenate([miniature.images(6, seed=1), train[[3, 17]]])
    test = np.concatenate([train[[18]], miniature.images(8, seed=2), train[[42, 49]]])
    return store(tmp_path_factory.mktemp("dataset"), train=train, val=val, test=test)


def draw(dataset: Dataset, batches: int, batch_size: int, seed: int = 0) -> Draw:
    return draw_images(dataset, batches, batch_size, seed)


@pytest.mark.parametrize("seed", range(20))
def test_no_image_of_val_or_test_is_ever_drawn(dataset: Dataset, seed: int) -> None:
    drawn = draw(dataset, 9, 5, seed)

    evaluated = {image.tobytes() for split in (dataset.val, dataset.test) for image in split.images}
    assert drawn.rows.shape == (9, 5)
    assert not evaluated & {dataset.train.images[row].tobytes() for row in drawn.rows.ravel()}
    assert sorted(drawn.rows.ravel()) == sorted(set(range(TRAIN)) - set(LEAKED))
    assert drawn.dropped == len(LEAKED)


choices = st.lists(st.integers(0, 40), min_size=2, max_size=30)


@settings(max_examples=30, deadline=None)
@given(train=choices, val=choices, test=choices)
def test_exactly_what_is_in_no_other_split_may_be_drawn(
    tmp_path_factory: pytest.TempPathFactory, train: list[int], val: list[int], test: list[int]
) -> None:
    kinds = miniature.images(41)
    dataset = store(tmp_path_factory.mktemp("dataset"), train=kinds[train], val=kinds[val], test=kinds[test])
    expected = [row for row, kind in enumerate(train) if kind not in val + test]

    if expected:
        drawn = draw(dataset, len(expected), 1)
        assert drawn.rows.shape == (len(expected), 1)
        assert sorted(drawn.rows.ravel()) == expected
        assert drawn.dropped == len(train) - len(expected)
    else:
        with pytest.raises(DataError, match="there are 0"):
            draw(dataset, 1, 1)


def test_the_error_names_the_largest_number_of_batches_that_works(dataset: Dataset) -> None:
    allowed = (TRAIN - len(LEAKED)) // 8

    with pytest.raises(DataError, match=f"are 80 images, there are 45: calib.batches may be at most {allowed} at"):
        draw(dataset, 10, 8)
    with pytest.raises(DataError, match=f"calib.batches may be at most {allowed}"):
        draw(dataset, allowed + 1, 8)
    assert draw(dataset, allowed, 8).rows.shape == (allowed, 8)


def test_a_batch_larger_than_all_images_is_reported_as_such(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"are 46 images, there are 45: lower calib.batch_size"):
        draw(dataset, 1, 46)


def test_the_draw_depends_on_the_seed_alone(dataset: Dataset) -> None:
    rows = draw(dataset, 2, 10, seed=7).rows
    other_batches = draw(dataset, 4, 5, seed=7).rows

    assert np.array_equal(draw(dataset, 2, 10, seed=7).rows, rows)
    assert np.array_equal(other_batches.ravel(), rows.ravel()), "the same images in other batches"
    assert not np.array_equal(draw(dataset, 2, 10, seed=8).rows, rows)
    assert len(set(rows.ravel())) == 20
    assert rows.dtype == np.int64


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(dataset: Dataset) -> None:
    rows = draw(dataset, 9, 5).rows

    for batches in range(1, 9):
        assert np.array_equal(draw(dataset, batches, 5).rows, rows[:batches])


def test_the_hash_is_that_of_the_rows_as_little_endian_int64(dataset: Dataset) -> None:
    drawn = draw(dataset, 2, 3)

    assert drawn.sha256 == hashlib.sha256(struct.pack("<6q", *drawn.rows.ravel())).hexdigest()


def test_batches_hold_the_drawn_images_in_order_and_preprocessed_as_for_evaluation(dataset: Dataset) -> None:
    rows = draw(dataset, 3, 4).rows

    batches = list(input_batches(dataset.train, rows, miniature.NORMALIZATION))
    assert [batch.shape for batch in batches] == [(4, 3, miniature.SIZE, miniature.SIZE)] * 3
    expected = to_input(torch.from_numpy(dataset.train.images[rows.ravel()]), miniature.NORMALIZATION)
    assert torch.equal(torch.cat(batches), expected)
    assert batches[0].dtype == torch.float32
