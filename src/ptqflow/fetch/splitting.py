"""Labelled images before they are stored, and stratified draws from them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization

Rows = NDArray[np.int64]


Decode = Callable[[], NDArray[np.uint8] | None]
"""Returns pixels (n, height, width, channels); None for a single image that is unreadable and to be left out."""


@dataclass(frozen=True)
class Pool:
    """Labelled images of a source, by their numbers; nothing is read."""

    rows: Rows
    """(N,), numbers of the images in their source."""
    labels: NDArray[np.int64]
    """(N,), index into the classes; -1 where there are no labels."""

    def take(self, indices: NDArray[Any]) -> "Pool":
        """Return the images at these indices, in this order."""
        return Pool(self.rows[indices], self.labels[indices])

    def without(self, rows: Rows) -> "Pool":
        """Return the images that do not have these numbers."""
        return self.take(np.flatnonzero(~np.isin(self.rows, rows)))

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Source:
    """A data set before it is split."""

    origin: str
    """Where the images come from, in words."""
    classes: tuple[str, ...]
    """None where the images have no labels."""
    train: Pool
    test: Pool | None
    horizontal_flip: bool
    """Whether a mirrored image is still of its class."""
    read: Callable[[Rows], Iterator[tuple[Rows, Decode]]]
    """Yields, of the images with these numbers, some at a time and in any order: their numbers, and how to decode them,
    which may be called in a thread."""
    val: Pool | None = None
    """Where the source has a split that was not trained on, besides test or in its place."""
    normalization: Normalization | None = None
    """Customary channel mean and std of pixels in 0..1; None: those of the training split."""
    skipped: int = 0
    """Unreadable files left out."""
    ignored: int = 0
    """Files left out by their names: hidden ones, those of operating systems and network storage, other than images."""

    def without(self, unreadable: Rows) -> "Source":
        """Return the source without the images with these numbers.

        Raises:
            DataError: a class has no image left in a split.
        """

        def left(name: str, pool: Pool) -> Pool:
            readable = pool.without(unreadable)
            if (lost := np.setdiff1d(pool.labels, readable.labels)).size:
                raise DataError(f"{name_class(self.classes, lost[0])} has no readable images in {name}")
            return readable

        return replace(
            self,
            train=left("train", self.train),
            val=self.val and left("val", self.val),
            test=self.test and left("test", self.test),
            skipped=self.skipped + len(unreadable),
        )


def stratified_subset(
    labels: NDArray[np.int64], limit: int | None, seed: int, classes: Sequence[str], least: int
) -> Rows:
    """Draw `limit` indices, stratified by class, in ascending order; return all of them if there are no more.

    Raises:
        DataError: fewer than `least` images of a class would be kept.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    kept, _ = stratified_split(labels, len(labels) - limit, seed, f"data.limit={limit}", classes)
    counts = dict(zip(*np.unique(labels[kept], return_counts=True), strict=True))
    for i in np.unique(labels):
        if counts.get(i, 0) < least:
            raise DataError(
                f"data.limit={limit} keeps {counts.get(i, 0)} of the images of {name_class(classes, i)}, and {least} "
                "are needed; raise it, or add images of it"
            )
    return kept


def stratified_split(
    labels: NDArray[np.int64], second: int | float, seed: int, key: str, classes: Sequence[str]
) -> tuple[Rows, Rows]:
    """Split indices in two, stratified by class; both in ascending order.

    `second` is the size of the second split, as a number of images or as a fraction. `key` is the setting that an error
    names.

    Raises:
        DataError: a class has one image, or a split is smaller than the number of classes.
    """
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"{key}: {name_class(classes, present[counts.argmin()])} has 1 image to draw from, and 2 or more are "
            f"needed; add images{' or remove the class' if classes else ''}"
        )
    size = second if isinstance(second, int) else math.ceil(second * len(labels))
    if min(size, len(labels) - size) < len(present):
        raise DataError(
            f"{key} divides {len(labels)} images into {len(labels) - size} and {size}, and each split needs "
            f"{len(present)} or more{', one of each class' if classes else ''}; change it, or add images"
        )
    if not classes:
        drawn = np.random.default_rng(seed).permutation(len(labels))
        return np.sort(drawn[size:]), np.sort(drawn[:size])
    from sklearn.model_selection import train_test_split  # takes a second to import

    first_rows, second_rows = train_test_split(
        np.arange(len(labels), dtype=np.int64), test_size=second, stratify=labels, random_state=seed
    )
    return np.sort(first_rows), np.sort(second_rows)


def name_class(classes: Sequence[str], index: int) -> str:
    """Return a class in words, for an error."""
    return f"the class {classes[index]!r}" if classes else "the folder or archive of photos"
