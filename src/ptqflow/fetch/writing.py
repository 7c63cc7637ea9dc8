"""Write a data set in the form that `ptqflow.data.dataset` reads."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.artifacts import naming, write_card
from ptqflow.core.normalization import Channels, Normalization
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import DIGEST_BYTES, DatasetCard, hash_index, release_pages
from ptqflow.fetch.splitting import Pool, Source

_PIXELS = 1 << 20  # of images in memory at a time, which are counted as int64


def save_dataset(directory: Path, name: str, source: Source, splits: dict[str, Pool]) -> DatasetCard:
    """Write the pools of `splits` (train, val and test) into an existing, empty directory.

    Raises:
        OSError: the disk is full; the error names the file. Plain writes report it; a write to a memory map would end
            the process with SIGBUS.
    """
    sha256 = {split: _save_split(directory, split, pool) for split, pool in splits.items()}
    mean, std = _channel_statistics(splits["train"])
    card = DatasetCard(
        name=name,
        source=source.origin,
        classes=source.classes,
        image_size=splits["train"].pixels.shape[1],
        sizes={split: len(pool) for split, pool in splits.items()},
        mean=mean,
        std=std,
        normalization=source.normalization or Normalization(mean=mean, std=_as_channels(np.maximum(std, 1 / 255))),
        horizontal_flip=source.horizontal_flip,
        skipped=source.skipped,
        ignored=source.ignored,
        sha256=sha256,
    )
    card = card.model_copy(update={"index_sha256": hash_index(directory, card)})
    write_card(directory / "card.json", card)
    return card


def _save_split(directory: Path, split: str, pool: Pool) -> str:
    sha256, digests = hashlib.sha256(), bytearray()
    path = directory / f"{split}_images.npy"
    with naming(path), path.open("wb") as file:
        _write_header(file, (len(pool), *pool.pixels.shape[1:]))
        for images in _chunks(pool):
            file.write(images.data)
            sha256.update(images.data)
            for image in images:
                digests += hashlib.blake2b(image.data, digest_size=DIGEST_BYTES).digest()
    sha256.update(pool.labels.tobytes())
    _save_array(directory / f"{split}_labels.npy", pool.labels)
    _save_array(directory / f"{split}_digests.npy", np.frombuffer(bytes(digests), dtype=f"V{DIGEST_BYTES}"))
    return sha256.hexdigest()


def _save_array(path: Path, array: NDArray[Any]) -> None:
    # Through memory: np.save to a full disk raises an OSError that does not say so.
    buffer = io.BytesIO()
    np.save(buffer, array)
    with naming(path):
        path.write_bytes(buffer.getvalue())


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _chunks(pool: Pool) -> Iterator[NDArray[np.uint8]]:
    step = images_together(pool.pixels.shape[1], _PIXELS)
    for start in range(0, len(pool), step):
        images = pool.pixels[pool.rows[start : start + step]]
        release_pages(pool.pixels)
        yield images


def _channel_statistics(pool: Pool) -> tuple[Channels, Channels]:
    # From counts of the 256 values, so exact: no order of summation, no rounding.
    channels = pool.pixels.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for images in _chunks(pool):
        for channel in range(channels):
            counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1))
    return _as_channels(mean), _as_channels(std)


def _as_channels(values: NDArray[np.float64]) -> Channels:
    return tuple(values.round(6).tolist())
