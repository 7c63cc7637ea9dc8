"""The images of each split and class, before anything is decoded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source, stratified_subset

ORDER = ("train", "val", "test")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case."""
_NAMED = 5  # classes in an error

Name = TypeVar("Name", str, int)
Read = Callable[[Sequence[Name], DataParams, Preprocessing, Rows], Iterator[tuple[Rows, Decode]]]
"""Reads the images with these numbers in a sequence of names, as `Source.read`."""


@dataclass(frozen=True)
class Layout(Generic[Name]):
    """Which images belong to which split and class."""

    classes: list[str]
    names: dict[str, list[Name]]
    """Split → names of files, or numbers of rows; train first."""
    labels: dict[str, NDArray[np.int64]]
    """Split → (N,), the class of each image."""

    def source(
        self, origin: str, read: Read[Name], params: DataParams, preprocessing: Preprocessing, ignored: int
    ) -> Source:
        """Return the source of the images, at most `data.limit` of each split."""
        kept = self._limited(params)
        names = [name for split in kept.names.values() for name in split]
        pools, first = {}, 0
        for split, labels in kept.labels.items():
            pools[split] = Pool(np.arange(first, first + len(labels)), labels)
            first += len(labels)
        return Source(
            origin=origin,
            classes=tuple(kept.classes),
            train=pools["train"],
            val=pools.get("val"),
            test=pools.get("test"),
            horizontal_flip=True,
            read=partial(read, names, params, preprocessing),
            ignored=ignored,
        )

    def _limited(self, params: DataParams) -> "Layout[Name]":
        drawn = len(ORDER) - len(self.labels)  # splits, of each of which a class has an image
        least = {
            "train": 3 if drawn == 2 else 2 if "val" not in self.labels else 1,
            "val": 1 + ("test" not in self.labels),
            "test": 0,
        }
        kept = {
            split: stratified_subset(labels, params.limit, params.seed, self.classes, least[split])
            for split, labels in self.labels.items()
        }
        return Layout(
            self.classes,
            {split: [names[i] for i in kept[split]] for split, names in self.names.items()},
            {split: labels[kept[split]] for split, labels in self.labels.items()},
        )


def problems_of_splits(
    classes: Sequence[str], classes_of: Mapping[str, set[str]], filled: Mapping[str, set[str]]
) -> Iterator[str]:
    """Yield what is wrong with the classes of each split: those that it has, and those that hold images."""
    for split, found in classes_of.items():
        if unknown := sorted(found - set(classes)):
            yield f"{split}/ has {_listed(unknown)}, which train/ does not have"
        if empty := sorted(found & set(classes) - filled[split]):
            yield f"{_listed(empty)} {'has' if len(empty) == 1 else 'have'} no images in {split}"


def _listed(classes: Sequence[str]) -> str:
    if len(classes) == 1:
        return f"the class {classes[0]!r}"
    more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
    return f"the classes {', '.join(map(repr, classes[:_NAMED]))}{more}"
