"""Which training images calibrate, and never one that is evaluated on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.progress import track
from ptqflow.data.dataset import Dataset, Split
from ptqflow.data.preprocessing import to_input


@dataclass(frozen=True)
class Draw:
    """The images that calibrate."""

    rows: NDArray[np.int64]
    """(batches, batch size), rows of the train split in the order in which the observers see them."""
    dropped: int
    """Training images that cannot be drawn because val or test holds the same image."""

    @property
    def sha256(self) -> str:
        """Hash of the rows."""
        return hash_rows(self.rows)


def hash_rows(rows: NDArray[np.int64]) -> str:
    """Return the hex SHA-256 of rows of a split as little-endian int64, in their order."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()


def draw_images(dataset: Dataset, batches: int, batch_size: int, seed: int) -> Draw:
    """Draw `batches * batch_size` training images that are neither in val nor in test.

    Of images without labels, which serve nothing else, fewer are drawn where there are no more.

    Raises:
        DataError: there are fewer images with labels, or none; the error names the largest number allowed.
    """
    evaluated = np.concatenate([dataset.val.digests, dataset.test.digests])
    allowed = np.flatnonzero(~np.isin(dataset.train.digests, evaluated)).astype(np.int64)
    if not dataset.card.labelled:
        if not len(allowed):
            raise DataError(
                f"each of the {len(dataset.train)} images that could calibrate is equal to one of val or test; add "
                "images that differ"
            )
        batch_size = min(batch_size, len(allowed))
        batches = min(batches, len(allowed) // batch_size)
    wanted = batches * batch_size
    if wanted > len(allowed):
        most = len(allowed) // batch_size
        raise DataError(
            f"calib.batches={batches} of calib.batch_size={batch_size} are {wanted} images, there are "
            f"{len(allowed)}: "
            + (f"calib.batches may be at most {most} at this batch size" if most else "lower calib.batch_size")
        )
    rows = np.random.default_rng(seed).permutation(allowed)[:wanted]
    return Draw(rows.reshape(batches, batch_size), len(dataset.train) - len(allowed))


def input_batches(split: Split, rows: NDArray[np.int64], normalization: Normalization) -> Iterator[Tensor]:
    """Yield float32 inputs (batch size, C, H, W) of rows (batches, batch size), preprocessed as for evaluation."""
    for batch in track(rows, len(rows), "calib", "batch"):
        yield to_input(torch.from_numpy(split.read(batch)), normalization)
