"""The user's own images: one folder per class, in a folder or an archive."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import Listing, list_files, read_files
from ptqflow.fetch.decoding import UnreadableImageError, decode_image
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source, stratified_subset

_LAYOUT = "expected train/<class>/… and test/<class>/…, or <class>/… alone"
_SPLIT_NAMES = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "eval"))
_NAMED = 5  # names in the line about ignored files


@dataclass(frozen=True)
class _Layout:
    """The files of each split and class, before anything is decoded."""

    classes: list[str]
    names: dict[str, list[str]]
    """Split → file names, sorted."""
    labels: dict[str, np.ndarray]
    """Split → (N,) int64, the class of each file."""


def load_image_folder(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Find `train/<class>/…` and `test/<class>/…`, or `<class>/…` alone, below `root` or inside the archive `root`.

    Names of classes are compared and returned in NFC, the composed form of Unicode. Hidden and system files are left
    out, and counted in one printed line. No image is decoded before the source reads it, which raises a DataError for
    an unreadable one while `data.on_bad_image` is `error`.

    Raises:
        DataError: another layout, fewer than two classes, an empty class, a class of test that train lacks, a
            class name that is not UTF-8, or two folders of a split whose names are equal in NFC.
    """
    listing = list_files(root, params.encoding)
    if listing.ignored:
        print(_describe_ignored(root, listing.ignored), flush=True)
    layout = _limited(_find_layout(root, listing), params)
    names = [name for split in layout.names.values() for name in split]
    pools, first = {}, 0
    for split, labels in layout.labels.items():
        pools[split] = Pool(np.arange(first, first + len(labels)), labels)
        first += len(labels)
    return Source(
        origin="image files, one folder a class",
        classes=tuple(layout.classes),
        train=pools["train"],
        test=pools.get("test"),
        horizontal_flip=True,
        read=partial(_read, root, names, params, preprocessing),
        ignored=listing.ignored.total(),
    )


def _describe_ignored(root: Path, ignored: Counter[str]) -> str:
    named = [f"{name!r} ({count:,})" for name, count in ignored.most_common(_NAMED)]
    others = [f"{len(ignored) - _NAMED} others"] if len(ignored) > _NAMED else []
    return f"{root.resolve()}: {ignored.total():,} hidden or system files are ignored: {', '.join(named + others)}"


def _find_layout(root: Path, listing: Listing) -> _Layout:
    if not listing.files:
        besides = " but hidden or system files" if listing.ignored else ""
        raise DataError(f"{root.resolve()} holds no files{besides}; {_LAYOUT}")
    composed = {name: unicodedata.normalize("NFC", name) for name in listing.files + listing.folders}
    depth = _common_depth([composed[name] for name in listing.files])

    def inside(name: str) -> list[str]:  # split when needed: of a million names, the lists are half a gigabyte
        return composed[name].split("/")[depth:]

    folders = {tuple(inside(name)) for name in listing.folders} | {tuple(inside(name)[:-1]) for name in listing.files}
    tops = {parts[0] for parts in folders if parts}
    _require_known_splits(root, tops)
    head = [] if "train" in tops else ["train"]
    for name in listing.files:
        if len(head + inside(name)) < 3:
            raise DataError(f"{root.resolve()}: {name} is in no class folder; {_LAYOUT}")
    _require_one_form(root, composed, depth + 2 - len(head))
    classes_of: dict[str, set[str]] = {}
    for parts in ([*head, *folder] for folder in folders):
        if len(parts) > 1:
            classes_of.setdefault(parts[0], set()).add(parts[1])
    classes = sorted(classes_of["train"])
    if unknown := sorted(classes_of.get("test", set()) - set(classes)):
        raise DataError(f"{root.resolve()}: test/ has the class {unknown[0]!r}, which train/ does not have")
    if len(classes) < 2:
        raise DataError(f"{root.resolve()} has only the class {classes[0]!r}; a classifier needs two or more")
    if garbled := [name for name in classes if name != name.encode(errors="replace").decode()]:
        remedy = "rename its folder" if root.is_dir() else "set data.encoding to the encoding of the archive's names"
        raise DataError(f"{root.resolve()}: the name of the class {garbled[0]!r} is not UTF-8; {remedy}")
    index_of = {name: index for index, name in enumerate(classes)}
    names: dict[str, list[str]] = {split: [] for split in sorted(classes_of, reverse=True)}  # train first
    labels: dict[str, list[int]] = {split: [] for split in names}
    for name in listing.files:
        split, label = (head + inside(name))[:2]
        names[split].append(name)
        labels[split].append(index_of[label])
    for split in names:
        if empty := sorted(classes_of[split] - {classes[index] for index in set(labels[split])}):
            raise DataError(f"{root.resolve()}: the class {empty[0]!r} has no images in {split}")
    return _Layout(classes, names, {split: np.array(indices, np.int64) for split, indices in labels.items()})


def _require_one_form(root: Path, composed: dict[str, str], depth: int) -> None:
    """Refuse two folders in one whose names are equal in NFC: they look the same.

    `depth` is how many folders are around the files of a class, with its own.
    """
    form_of: dict[str, str] = {}
    for name, normal in composed.items():
        if name.isascii():
            continue
        folder, form = ("/".join(text.split("/")[:depth]) for text in (normal, name))
        if form_of.setdefault(folder, form) != form:
            forms = " and ".join(sorted(ascii(text) for text in (form_of[folder], form)))
            raise DataError(
                f"{root.resolve()}: the folders {forms} differ only in Unicode normalization (NFC, NFD); move the "
                "files of one into the other"
            )


def _require_known_splits(root: Path, tops: set[str]) -> None:
    """Refuse splits with other names, which would be read as classes, and classes that would be read as splits."""
    held = f"{root.resolve()} holds {', '.join(sorted(tops))}"
    if tops == {"train", "test"}:
        return
    if tops and all(top.casefold() in _SPLIT_NAMES for top in tops):
        raise DataError(
            f"{held}, which look like splits: train and test are expected, both and no other, because val is drawn "
            f"from train; {_LAYOUT}"
        )
    if "train" in tops:
        raise DataError(
            f"{held}; a folder named train is read as the training split, next to which only test is allowed: if train "
            f"is a class, rename its folder; {_LAYOUT}"
        )


def _common_depth(files: list[str]) -> int:
    """Count the outer folders that hold everything, as in an archive of a single folder."""
    first, least = files[0].split("/"), min(name.count("/") for name in files)
    depth = 0
    while (
        least > depth + 1
        and first[depth].casefold() not in ("train", "training")
        and all(name.split("/", depth + 1)[depth] == first[depth] for name in files)
    ):
        depth += 1
    return depth


def _limited(layout: _Layout, params: DataParams) -> _Layout:
    least = {"train": 2, "test": 0} if "test" in layout.labels else {"train": 3}  # one for each split drawn from it
    kept = {
        split: stratified_subset(labels, params.limit, params.seed, layout.classes, least[split])
        for split, labels in layout.labels.items()
    }
    return _Layout(
        layout.classes,
        {split: [names[i] for i in kept[split]] for split, names in layout.names.items()},
        {split: labels[kept[split]] for split, labels in layout.labels.items()},
    )


def _read(
    root: Path, names: list[str], params: DataParams, preprocessing: Preprocessing, rows: Rows
) -> Iterator[tuple[Rows, Decode]]:
    row_of = {names[row]: row for row in rows.tolist()}
    for name, data in read_files(root, row_of, params.encoding, params.max_megapixels):
        yield np.array([row_of[name]]), partial(_decode, root, name, data, params, preprocessing)


def _decode(
    root: Path, name: str, data: bytes, params: DataParams, preprocessing: Preprocessing
) -> NDArray[np.uint8] | None:
    try:
        return decode_image(data, preprocessing, params.max_megapixels)[np.newaxis]
    except UnreadableImageError as error:
        if params.on_bad_image == "skip":
            return None
        raise DataError(
            f"{root.resolve()}: {name} is no readable image ({error}); fix or remove it, or set data.on_bad_image=skip"
        ) from None
