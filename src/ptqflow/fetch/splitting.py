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
    """(N,), index into the classes."""

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
    train: Pool
    test: Pool | None
    horizontal_flip: bool
    """Whether a mirrored image is still of its class."""
    read: Callable[[Rows], Iterator[tuple[Rows, Decode]]]
    """Yields, of the images with these numbers, some at a time and in any order: their numbers, and how to decode them,
    which may be called in a thread."""
    normalization: Normalization | None = None
    """Customary channel mean and std of pixels in 0..1; None: those of the training split."""
    skipped: int = 0
    """Unreadable files left out."""
    ignored: int = 0
    """Hidden files and those of operating systems and network storage, left out."""

    def without(self, unreadable: Rows) -> "Source":
        """Return the source without the images with these numbers.

        Raises:
            DataError: a class has no image left in train or in test.
        """
        train, test = self.train.without(unreadable), self.test and self.test.without(unreadable)
        for name, before, after in (("train", self.train, train), ("test", self.test, test)):
            if before and after and (lost := np.setdiff1d(before.labels, after.labels)).size:
                raise DataError(f"the class {self.classes[lost[0]]!r} has no readable images in {name}")
        return replace(self, train=train, test=test, skipped=self.skipped + len(unreadable))


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
    counts = np.bincount(labels[kept], minlength=len(classes))
    for i in np.unique(labels):
        if counts[i] < least:
            raise DataError(
                f"data.limit={limit} keeps {counts[i]} of the images of the class {classes[i]!r}, and {least} are "
                "needed; raise it, or add images of the class"
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
    from sklearn.model_selection import train_test_split

    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"{key}: the class {classes[present[counts.argmin()]]!r} has 1 image to draw from, and 2 or more are "
            "needed; add images or remove the class"
        )
    size = second if isinstance(second, int) else math.ceil(second * len(labels))
    if min(size, len(labels) - size) < len(present):
        raise DataError(
            f"{key} divides {len(labels)} images into {len(labels) - size} and {size}, and each split needs "
            f"{len(present)} or more, one of each class; change it, or add images"
        )
    first_rows, second_rows = train_test_split(
        np.arange(len(labels), dtype=np.int64), test_size=second, stratify=labels, random_state=seed
    )
    return np.sort(first_rows), np.sort(second_rows)
