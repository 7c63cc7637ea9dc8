"""The data set on disk: memory-mapped arrays for train, val and test, and a card that describes them."""

import hashlib
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from ptqflow.core.artifacts import REMEDY, Card, read_card
from ptqflow.core.errors import ArtifactError, DataError
from ptqflow.core.normalization import Channels, Normalization
from ptqflow.core.preprocessing import ColorOrder, Preprocessing

SPLITS = ("train", "val", "test")
DIGEST_BYTES = 16
_DIGEST = np.dtype(f"V{DIGEST_BYTES}")


class DatasetCard(Card):
    """What later stages need to know about the images."""

    format_version: Literal[4] = 4
    name: str
    """The value of `data.name`."""
    source: str
    """Where the images come from, in words."""
    classes: tuple[str, ...]
    """Of the labels; none where there are no labels."""
    preprocessing: Preprocessing
    """Of the images, before they were stored."""
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
    index_sha256: str = ""
    """Hash of this card and of the labels and digests of all splits; the digests are of the images."""

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.classes)

    @property
    def channels(self) -> int:
        """Of the images: 1 (grey), 3 (RGB or BGR) or 4 (RGBA)."""
        return self.preprocessing.channels

    @property
    def color(self) -> ColorOrder:
        """The channels in their order."""
        return self.preprocessing.color


@dataclass(frozen=True)
class Split:
    """Images in their stored order, memory-mapped; `read` returns them."""

    images: NDArray[np.uint8]
    """(N, height, width, channels), unchanged from the disk, not compared with their digests."""
    labels: NDArray[np.int64] | None
    """(N,), index into the card's classes; None where there are no labels."""
    digests: NDArray[np.void]
    """(N,), 16 bytes that are equal exactly where two images are."""
    name: str = "the split"
    """Directory and split, for an error."""
    numbers: range = range(1 << 62)
    """Of the images in the stored split, from 0."""
    checked: NDArray[np.bool_] | None = None
    """(N,), which images this process has compared with their digests; None: each is compared whenever it is read."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def known_labels(self) -> NDArray[np.int64]:
        """The labels.

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(f"{self.name} has no labels; set data.name to a source that has")
        return self.labels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        _, height, width, _ = self.images.shape
        return height, width

    def __getitem__(self, part: slice) -> "Split":
        checked = None if self.checked is None else self.checked[part]  # a view
        labels = None if self.labels is None else self.labels[part]
        return Split(self.images[part], labels, self.digests[part], self.name, self.numbers[part], checked)

    def read(self, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.uint8]:
        """Return a copy of the images at some rows, (n, height, width, channels).

        An image is compared with its digest when the process reads it for the first time. Of the file, nothing stays in
        the memory of this process.

        Raises:
            ArtifactError: an image is not the one that `fetch` stored; the error says which.
        """
        images = np.array(self.images[rows])
        self.release()
        self._check(images, np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows)
        return images

    def _check(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        due = np.arange(len(rows)) if self.checked is None else np.flatnonzero(~self.checked[rows])
        wrong = due[digests_of(images[i] for i in due) != self.digests[rows[due]]]
        if len(wrong):
            number = self.numbers[int(rows[wrong[0]])]
            raise ArtifactError(f"{self.name} image {number} is not the one that `fetch` stored; {REMEDY}")
        if self.checked is not None:
            self.checked[rows[due]] = True

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


def count_trained_on(dataset: Dataset) -> dict[str, int]:
    """Return how many images of val and of test are in train too, by their digests."""
    known = dataset.train.digests
    return {
        name: int(np.isin(split.digests, known).sum()) for name, split in (("val", dataset.val), ("test", dataset.test))
    }


def release_pages(array: NDArray[Any]) -> None:
    """Drop what was read of a memory-mapped array from the memory of this process; a plain array stays unchanged."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def digest_of(image: NDArray[np.uint8]) -> bytes:
    """Return the digest of an image, 16 bytes."""
    return hashlib.blake2b(image.data, digest_size=DIGEST_BYTES).digest()


def digests_of(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.void]:
    """Return the digest of each image, (N,)."""
    return np.frombuffer(b"".join(map(digest_of, images)), dtype=_DIGEST)


def hash_index(directory: Path, card: DatasetCard) -> str:
    """Return the hex SHA-256 of a card without this hash, and of the labels and digests of all splits.

    Raises:
        OSError: a file cannot be read.
    """
    sha256 = hashlib.sha256(card.model_copy(update={"index_sha256": ""}).model_dump_json().encode())
    for split in SPLITS:
        for part in ("labels", "digests"):
            sha256.update((directory / f"{split}_{part}.npy").read_bytes())
    return sha256.hexdigest()


def open_dataset(directory: Path) -> Dataset:
    """Map the arrays that `save_dataset` wrote.

    Raises:
        ArtifactError: a file is missing or is not what the card says.
    """
    card = read_card(directory / "card.json", DatasetCard)
    dataset = Dataset(card, **{split: _open_split(directory, split, card) for split in SPLITS})
    if hash_index(directory, card) != card.index_sha256:
        raise ArtifactError(f"{directory}: the card, labels or digests are not those that `fetch` stored; {REMEDY}")
    return dataset


def _open_split(directory: Path, split: str, card: DatasetCard) -> Split:
    try:
        images, labels, digests = (
            np.load(directory / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("images", "labels", "digests")
        )
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{directory}: the {split} split cannot be read ({error}); {REMEDY}") from None
    expected = (card.sizes.get(split), *card.preprocessing.size, card.channels)
    if images.shape != expected or len(labels) != len(images) or len(digests) != len(images):
        raise ArtifactError(
            f"{directory}: {split} holds images of shape {images.shape}, {len(labels)} labels and {len(digests)} "
            f"digests, the card says images of shape {expected}; {REMEDY}"
        )
    if images.dtype != np.uint8 or not images.flags.c_contiguous:
        raise ArtifactError(f"{directory}: {split} holds images of {images.dtype}, not uint8 in C order; {REMEDY}")
    checked = np.zeros(len(images), np.bool_)
    return Split(
        images, labels if card.labelled else None, digests, f"{directory}: {split}", range(len(images)), checked
    )
