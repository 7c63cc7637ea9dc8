"""The batches of an epoch, prefetched from the disk or taken from a GPU that holds all images."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ptqflow.core.ranks import Ranks
from ptqflow.data.dataset import Split
from ptqflow.train.augmentation import Draws
from ptqflow.train.params import MIN_PER_RANK

T = TypeVar("T")
Pair = tuple[Tensor, Tensor]
"""Images, uint8 (N, H, W, C), and their labels, int64 (N,)."""

_AHEAD = 4  # batches that are prefetched
_SHARE_OF_GPU = 0.5  # of its free memory that the images may take
_CHUNK = 1 << 26  # bytes that go to a GPU at a time


@dataclass(frozen=True)
class Batch:
    """This rank's share of a batch, on its device."""

    images: Tensor
    """uint8 (N, H, W, C)."""
    labels: Tensor
    """int64 (N,)."""
    draws: Draws
    """Of N images."""
    total: int
    """Images of the whole batch, those of other ranks included."""

    def clone(self) -> "Batch":
        """Return a copy of the tensors."""
        return Batch(self.images.clone(), self.labels.clone(), self.draws.clone(), self.total)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that a step reads and that differ between batches of one size."""
        return self.images, self.labels, self.draws.places, self.draws.mirrored, self.draws.hidden


class Batches:
    """The batches of a split, of which each rank has a share."""

    def __init__(self, split: Split, batch_size: int, ranks: Ranks, device: torch.device) -> None:
        """Cut batches of `batch_size` images over all ranks; a last one of too few for every rank is left out."""
        self.images = len(split)
        """Of the split."""
        self._batch_size, self._ranks, self._device = batch_size, ranks, device
        self._source = _OnGpu(split, device) if _fits(split, device) else _OnDisk(split, device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        whole, rest = divmod(self.images, self._batch_size)
        return whole + (rest >= MIN_PER_RANK * self._ranks.size)

    def totals(self) -> list[int]:
        """Return the number of images in each batch, of all ranks together."""
        return [min(self._batch_size, self.images - start) for start in self._starts()]

    def epoch(self, draws: Draws) -> Iterator[Batch]:
        """Yield this rank's share of every batch."""
        on_device = draws.to(self._device)
        shares = [self._share(start, total) for start, total in zip(self._starts(), self.totals(), strict=True)]
        pairs = self._source.pairs(draws.order, shares)
        for share, total, (images, labels) in zip(shares, self.totals(), pairs, strict=True):
            yield Batch(images, labels, on_device[share], total)

    def _starts(self) -> range:
        return range(0, len(self) * self._batch_size, self._batch_size)

    def _share(self, start: int, total: int) -> slice:
        share = self._ranks.part(total)
        return slice(start + share.start, start + share.stop)


def _fits(split: Split, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return bool(split.images.nbytes < _SHARE_OF_GPU * free)


class _OnGpu:
    """All images of a split in the memory of a GPU."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._labels = torch.from_numpy(np.array(split.known_labels)).to(device)
        self._images = torch.empty(split.images.shape, dtype=torch.uint8, device=device)
        step = max(1, _CHUNK // split.images[:1].nbytes)
        for start in range(0, len(split), step):
            self._images[start : start + step] = torch.from_numpy(split.read(slice(start, start + step)))

    def pairs(self, order: Tensor, shares: Iterable[slice]) -> Iterator[Pair]:
        """Yield images and labels of each share of `order`."""
        rows = order.to(self._images.device)
        for share in shares:
            yield self._images[rows[share]], self._labels[rows[share]]


class _OnDisk:
    """Memory-mapped images of a split, which may be larger than the memory."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._split, self._device = split, device

    def pairs(self, order: Tensor, shares: Iterable[slice]) -> Iterator[Pair]:
        """Yield images and labels of each share of `order`, prefetching the next ones."""
        for images, labels in _ahead(self._read, (order[share].numpy() for share in shares)):
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _read(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Pair:
        images, labels = torch.from_numpy(self._split.read(rows)), torch.from_numpy(self._split.known_labels[rows])
        if self._device.type == "cuda":
            return images.pin_memory(), labels.pin_memory()
        return images, labels


def _ahead(function: Callable[[T], Pair], items: Iterable[T]) -> Iterator[Pair]:
    """Yield the function's result for each item; a thread computes some of them ahead."""
    waiting = iter(items)
    with ThreadPoolExecutor(1) as pool:
        running = deque(pool.submit(function, item) for item in islice(waiting, _AHEAD))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(function, item) for item in islice(waiting, 1))
            yield result
