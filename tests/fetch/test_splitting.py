"""Draws keep the classes in proportion."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from ptqflow.core.errors import DataError
from ptqflow.fetch.splitting import Pool, stratified_split, stratified_subset

CLASSES = ("ant", "bee", "cat")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.array([0, 1, 2]), [60, 30, 10]))


def test_a_subset_has_the_classes_in_proportion_in_the_order_of_the_source() -> None:
    rows = stratified_subset(LABELS, 50, seed=0, classes=CLASSES, least=0)
    assert np.bincount(LABELS[rows]).tolist() == [30, 15, 5]
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("limit", [None, 100, 1000])
def test_no_limit_keeps_everything(limit: int | None) -> None:
    assert (stratified_subset(LABELS, limit, seed=0, classes=CLASSES, least=0) == np.arange(100)).all()


def test_parts_are_disjoint_complete_in_proportion_and_in_the_order_of_the_source() -> None:
    first, second = stratified_split(LABELS, 0.2, seed=0, key="data.val_fraction", classes=CLASSES)
    assert sorted([*first, *second]) == list(range(100))
    assert np.bincount(LABELS[second]).tolist() == [12, 6, 2]
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()


@pytest.mark.parametrize("second", [0.2, 0.5, 17])
def test_the_parts_are_those_that_scikit_learn_draws(second: float) -> None:
    expected = train_test_split(np.arange(100), test_size=second, stratify=LABELS, random_state=7)
    found = stratified_split(LABELS, second, seed=7, key="data.val_fraction", classes=CLASSES)
    for rows, drawn in zip(found, expected, strict=True):
        assert rows.tolist() == sorted(drawn)


def test_equal_seeds_draw_alike_and_others_do_not() -> None:
    draws = [stratified_split(LABELS, 0.2, seed, "data.val_fraction", CLASSES)[1].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    subsets = [stratified_subset(LABELS, 50, seed, CLASSES, 0).tolist() for seed in (0, 0, 1)]
    assert subsets[0] == subsets[1] != subsets[2]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], "data.val_fraction: the class 'ant' has 1 image to draw from, and 2 or more are needed; add images"),
        ([0, 0, 0, 2], "data.val_fraction: the class 'cat' has 1 image to draw from, and 2 or more are needed"),
        ([0] * 5 + [2] * 5, "data.val_fraction divides 10 images into 9 and 1, and each split needs 2 or more"),
    ],
)
def test_too_few_images_name_the_setting_and_what_is_needed(labels: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        stratified_split(np.array(labels), 0.1, 0, "data.val_fraction", CLASSES)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (2, "data.limit=2 divides 100 images into 2 and 98, and each split needs 3 or more, one of each class"),
        (98, "data.limit=98 divides 100 images into 98 and 2, and each split needs 3 or more"),
        (10, "data.limit=10 keeps 1 of the images of the class 'cat', and 2 are needed; raise it, or add"),
    ],
)
def test_a_limit_that_leaves_a_class_too_little_is_reported(limit: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        stratified_subset(LABELS, limit, 0, CLASSES, least=2)


def test_what_is_taken_from_a_pool_keeps_its_numbers() -> None:
    pool = Pool(np.arange(5), np.array([4, 3, 2, 1, 0]))
    taken = pool.take(np.array([3, 0])).take(np.array([1]))
    assert pool.without(np.array([1, 3])).rows.tolist() == [0, 2, 4]
    assert (taken.rows.tolist(), taken.labels.tolist(), len(taken)) == ([0], [4], 1)
