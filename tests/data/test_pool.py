"""Draws keep the classes in proportion."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from ptqflow.data.pool import Pool, stratified_split, stratified_subset
from ptqflow.errors import DataError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.array([0, 1, 2]), [60, 30, 10]))


def test_a_subset_has_the_classes_in_proportion_in_the_order_of_the_source() -> None:
    rows = stratified_subset(LABELS, 50, seed=0)
    assert np.bincount(LABELS[rows]).tolist() == [30, 15, 5]
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("limit", [None, 100, 1000])
def test_no_limit_keeps_everything(limit: int | None) -> None:
    assert (stratified_subset(LABELS, limit, seed=0) == np.arange(100)).all()


def test_parts_are_disjoint_complete_in_proportion_and_in_the_order_of_the_source() -> None:
    first, second = stratified_split(LABELS, 0.2, seed=0, key="data.val_fraction")
    assert sorted([*first, *second]) == list(range(100))
    assert np.bincount(LABELS[second]).tolist() == [12, 6, 2]
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()


@pytest.mark.parametrize("second", [0.2, 0.5, 17])
def test_the_parts_are_those_that_scikit_learn_draws(second: float) -> None:
    expected = train_test_split(np.arange(100), test_size=second, stratify=LABELS, random_state=7)
    found = stratified_split(LABELS, second, seed=7, key="data.val_fraction")
    for rows, drawn in zip(found, expected, strict=True):
        assert rows.tolist() == sorted(drawn)


def test_equal_seeds_draw_alike_and_others_do_not() -> None:
    draws = [stratified_split(LABELS, 0.2, seed, "data.val_fraction")[1].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    subsets = [stratified_subset(LABELS, 50, seed).tolist() for seed in (0, 0, 1)]
    assert subsets[0] == subsets[1] != subsets[2]


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 1], [0] * 5 + [1] * 5])
def test_too_few_images_name_the_setting(labels: list[int]) -> None:
    with pytest.raises(DataError, match=rf"data.val_fraction: {len(labels)} images cannot be split so that each class"):
        stratified_split(np.array(labels), 0.1, 0, "data.val_fraction")


def test_a_limit_below_the_number_of_classes_is_told() -> None:
    with pytest.raises(DataError, match=r"data.limit: 100 images cannot be split so that each class is in both parts"):
        stratified_subset(LABELS, 2, seed=0)


def test_taking_from_a_pool_copies_no_pixels() -> None:
    pool = Pool(np.zeros((5, 2, 2, 3), np.uint8), np.arange(5), np.array([4, 3, 2, 1, 0]))
    taken = pool.take(np.array([3, 0])).take(np.array([1]))
    assert taken.pixels is pool.pixels
    assert (taken.rows.tolist(), taken.labels.tolist(), len(taken)) == ([0], [4], 1)
