"""The image files of each split and class, before anything is decoded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.image_files import read_images
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Pool, Source, stratified_subset

ORDER = ("train", "val", "test")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What splits are called, in lower case."""
_NAMED = 5  # classes in an error


@dataclass(frozen=True)
class Layout:
    """Which files belong to which split and class."""

    classes: list[str]
    names: dict[str, list[str]]
    """Split → file names, train first."""
    labels: dict[str, NDArray[np.int64]]
    """Split → (N,), the class of each file."""

    def source(self, origin: str, root: Path, params: DataParams, preprocessing: Preprocessing, ignored: int) -> Source:
        """Return the source of the images in a folder or archive, at most `data.limit` of each split."""
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
            read=partial(read_images, root, names, params, preprocessing),
            ignored=ignored,
        )

    def _limited(self, params: DataParams) -> "Layout":
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
