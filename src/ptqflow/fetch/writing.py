"""Write a data set in the form that `ptqflow.data.dataset` reads, each image once."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.artifacts import naming, write_card
from ptqflow.core.normalization import Channels, InputShape, Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.core.progress import progress_bar
from ptqflow.data.dataset import DIGEST_BYTES, DatasetCard, hash_index
from ptqflow.fetch.reading import decode
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Written:
    """The images in the files of their splits."""

    unreadable: Rows
    """Numbers of images that are in no file; the places of those that should have been are empty."""
    sha256: Mapping[str, str]
    """Hash of the images, then the labels, of each split; none if an image is unreadable."""
    counts: NDArray[np.int64]
    """(channels, 256): how often a channel of the training images has each value."""


def write_images(directory: Path, source: Source, splits: Mapping[str, Pool], shape: InputShape) -> Written:
    """Decode the images of `splits` (train, val and test) and write them into an existing directory.

    Args:
        directory: in which files of the same names are replaced.
        source: of the images.
        splits: which images, in the order in which they are stored.
        shape: of an image.

    Raises:
        DataError: an image is unreadable and the source does not leave it out.
        OSError: the disk is full; the error names the file. Plain writes report it; a write to a memory map would end
            the process with SIGBUS.
    """
    everything = np.concatenate([pool.rows for pool in splits.values()])
    split_of, place_of = (np.empty(everything.max() + 1, np.int64) for _ in range(2))
    for number, pool in enumerate(splits.values()):
        split_of[pool.rows], place_of[pool.rows] = number, np.arange(len(pool))
    counted = np.zeros(len(split_of), bool)
    counted[splits["train"].rows] = True
    unreadable: list[int] = []
    counts = np.zeros((shape[0], 256), np.int64)
    with ExitStack() as stack:
        files = [stack.enter_context(_SplitFile(directory, *split, shape)) for split in splits.items()]
        bar = stack.enter_context(progress_bar(len(everything), "fetch", "image"))
        for decoded in decode(source, np.sort(everything), counted, shape):
            bar.update(len(decoded.rows))
            if decoded.pixels is None:
                unreadable.extend(decoded.rows.tolist())
                continue
            for i, row in enumerate(decoded.rows):
                files[split_of[row]].write(int(place_of[row]), decoded.pixels[i], decoded.digests[i])
            counts += decoded.counts
        sha256 = {} if unreadable else {split: file.finish() for split, file in zip(splits, files, strict=True)}
    return Written(np.sort(np.array(unreadable, np.int64)), sha256, counts)


def read_written(
    directory: Path, splits: Mapping[str, Pool], shape: InputShape, rows: Rows
) -> Iterator[tuple[Rows, Decode]]:
    """Read back what `write_images` wrote, as `Source.read`.

    Args:
        directory: with the files.
        splits: that are in them.
        shape: of an image.
        rows: numbers of the images that are read.
    """
    for split, pool in splits.items():
        path, start = _path(directory, split), len(_header(len(pool), shape))
        for place in np.flatnonzero(np.isin(pool.rows, rows)).tolist():
            yield pool.rows[place : place + 1], partial(_read_image, path, start, place, shape)


def save_card(
    directory: Path,
    name: str,
    source: Source,
    splits: Mapping[str, Pool],
    written: Written,
    preprocessing: Preprocessing,
) -> DatasetCard:
    """Write what describes the images, and return it."""
    mean, std = _channel_statistics(written.counts)
    card = DatasetCard(
        name=name,
        source=source.origin,
        classes=source.classes,
        preprocessing=preprocessing,
        sizes={split: len(pool) for split, pool in splits.items()},
        mean=mean,
        std=std,
        normalization=source.normalization or Normalization(mean=mean, std=_as_channels(np.maximum(std, 1 / 255))),
        horizontal_flip=source.horizontal_flip,
        skipped=source.skipped,
        ignored=source.ignored,
        sha256=dict(written.sha256),
    )
    card = card.model_copy(update={"index_sha256": hash_index(directory, card)})
    write_card(directory / "card.json", card)
    return card


class _SplitFile:
    """The file of a split, in which each image is written into its place, in any order."""

    def __init__(self, directory: Path, split: str, pool: Pool, shape: InputShape) -> None:
        self._directory, self._split, self._labels = directory, split, pool.labels
        self._path = _path(directory, split)
        header = _header(len(pool), shape)
        self._start, self._bytes = len(header), int(np.prod(shape))
        self._digests = np.zeros(len(pool), f"V{DIGEST_BYTES}")
        self._sha256 = hashlib.sha256()
        self._hashed = 0
        """Images, from the first on."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._write(header, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, place: int, image: NDArray[np.uint8], digest: bytes) -> None:
        """Write an image."""
        self._write(image.data.cast("B"), self._start + place * self._bytes)
        self._digests[place] = np.void(digest)
        if place == self._hashed:
            self._sha256.update(image.data)
            self._hashed += 1

    def finish(self) -> str:
        """Write labels and digests, and return the hash of the images, then the labels."""
        position = self._start + self._hashed * self._bytes
        while block := os.pread(self._file, _BLOCK, position):
            self._sha256.update(block)
            position += len(block)
        self._sha256.update(self._labels.tobytes())
        for part, array in (("labels", self._labels), ("digests", self._digests)):
            _save_array(self._directory / f"{self._split}_{part}.npy", array)
        return self._sha256.hexdigest()

    def _write(self, data: bytes | memoryview, position: int) -> None:
        left = memoryview(data)
        while left:
            with naming(self._path):
                count = os.pwrite(self._file, left, position)
            left, position = left[count:], position + count


def _path(directory: Path, split: str) -> Path:
    return directory / f"{split}_images.npy"


def _header(count: int, shape: InputShape) -> bytes:
    channels, height, width = shape
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _read_image(path: Path, start: int, place: int, shape: InputShape) -> NDArray[np.uint8]:
    channels, height, width = shape
    count = channels * height * width
    return np.fromfile(path, np.uint8, count, offset=start + place * count).reshape(1, height, width, channels)


def _save_array(path: Path, array: NDArray[Any]) -> None:
    # Through memory: np.save to a full disk raises an OSError that does not say so.
    buffer = io.BytesIO()
    np.save(buffer, array)
    with naming(path):
        path.write_bytes(buffer.getvalue())


def _channel_statistics(counts: NDArray[np.int64]) -> tuple[Channels, Channels]:
    # From counts of the 256 values, so exact: no order of summation, no rounding.
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1))
    return _as_channels(mean), _as_channels(std)


def _as_channels(values: NDArray[np.float64]) -> Channels:
    return tuple(values.round(6).tolist())
