"""The data set on disk: memory-mapped arrays for train, val and test, and a card that describes them."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from ptqflow.core.artifacts import Card, read_card
from ptqflow.core.errors import ArtifactError
from ptqflow.core.normalization import Channels, Normalization

SPLITS = ("train", "val", "test")
DIGEST_BYTES = 16


class DatasetCard(Card):
    """What later stages need to know about the images."""

    format_version: Literal[2] = 2
    name: str
    """The value of `data.name`."""
    source: str
    """Where the images come from, in words."""
    classes: tuple[str, ...]
    image_size: PositiveInt
    sizes: dict[str, PositiveInt]
    """Images of each split."""
    mean: Channels
    """Channel mean of the training split, pixels in 0..1."""
    std: Channels
    """Channel standard deviation of the training split."""
    normalization: Normalization
    """Of a network's input, where the model does not bring its own."""
    horizontal_flip: bool
    """Whether a mirrored image is still of its class."""
    skipped: NonNegativeInt
    """Unreadable files left out."""
    ignored: NonNegativeInt = 0
    """Hidden files and those of operating systems and network storage, left out."""
    sha256: dict[str, str]
    """Hash of the images, then the labels, of each split."""

    @property
    def channels(self) -> int:
        """Of the images: 1 (grey), 3 (RGB) or 4 (RGBA)."""
        return self.normalization.channels


@dataclass(frozen=True)
class Split:
    """Images in their stored order, memory-mapped."""

    images: NDArray[np.uint8]
    """(N, size, size, channels)."""
    labels: NDArray[np.int64]
    """(N,), index into the card's classes."""
    digests: NDArray[np.void]
    """(N,), 16 bytes that are equal exactly where two images are."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Split":
        return Split(self.images[part], self.labels[part], self.digests[part])

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a copy of some images; of the file, nothing stays in the memory of this process."""
        images = np.array(self.images[rows])
        self.release()
        return images

    def release(self) -> None:
        """Drop the images that were read from the memory of this process; they stay mapped."""
        release_pages(self.images)


@dataclass(frozen=True)
class Dataset:
    """The three splits and their card."""

    card: DatasetCard
    train: Split
    val: Split
    test: Split


def release_pages(array: NDArray[Any]) -> None:
    """Drop what was read of a memory-mapped array from the memory of this process; a plain array stays unchanged."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def open_dataset(directory: Path) -> Dataset:
    """Map the arrays that `save_dataset` wrote.

    Raises:
        ArtifactError: a file is missing or is not what the card says.
    """
    card = read_card(directory / "card.json", DatasetCard)
    return Dataset(card, **{split: _open_split(directory, split, card) for split in SPLITS})


def _open_split(directory: Path, split: str, card: DatasetCard) -> Split:
    try:
        images, labels, digests = (
            np.load(directory / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("images", "labels", "digests")
        )
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{directory}: the {split} split cannot be read ({error}); run `dvc repro`") from None
    expected = (card.sizes.get(split), card.image_size, card.image_size, card.channels)
    if images.shape != expected or len(labels) != len(images) or len(digests) != len(images):
        raise ArtifactError(
            f"{directory}: {split} holds images of shape {images.shape}, {len(labels)} labels and {len(digests)} "
            f"digests, the card says images of shape {expected}; run `dvc repro`"
        )
    return Split(images, labels, digests)
