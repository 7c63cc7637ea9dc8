"""Labelled images before they are stored, and how they are drawn from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptqflow.data.dataset import Channels
from ptqflow.errors import DataError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Images that are rows of a larger array, which may be memory-mapped; nothing is copied until it is read."""

    pixels: NDArray[np.uint8]
    """(M, size, size, 3), RGB."""
    rows: Rows
    """(N,), which rows of `pixels` belong to this pool."""
    labels: NDArray[np.int64]
    """(N,), index into the classes."""

    def take(self, indices: NDArray[Any]) -> "Pool":
        """Return the images at these indices, in this order."""
        return Pool(self.pixels, self.rows[indices], self.labels[indices])

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Source:
    """What a data set offers before it is split."""

    origin: str
    """Where the images come from, in words."""
    classes: tuple[str, ...]
    train: Pool
    test: Pool | None
    horizontal_flip: bool
    """Whether a mirrored image is still of its class."""
    normalization: tuple[Channels, Channels] | None = None
    """Customary channel mean and std of pixels in 0..1; None: those of the training split."""
    skipped: int = 0
    """Unreadable files left out."""


def stratified_subset(labels: NDArray[np.int64], limit: int | None, seed: int) -> Rows:
    """Draw `limit` indices with each class in proportion, in ascending order; all of them where there are no more."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    kept, _ = stratified_split(labels, len(labels) - limit, seed, "data.limit")
    return kept


def stratified_split(labels: NDArray[np.int64], second: int | float, seed: int, key: str) -> tuple[Rows, Rows]:
    """Split indices in two with each class in proportion; both parts in ascending order.

    `second` is the size of the second part, as a number of images or as a fraction. `key` is the setting that an error
    names.

    Raises:
        DataError: a class or a part is too small to have every class in both parts.
    """
    from sklearn.model_selection import train_test_split

    try:
        first_part, second_part = train_test_split(
            np.arange(len(labels), dtype=np.int64), test_size=second, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{key}: {len(labels)} images cannot be split so that each class is in both parts: {error}"
        ) from None
    return np.sort(first_part), np.sort(second_part)
