"""The user's own images: one folder per class, in a folder or an archive."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import Listing
from ptqflow.fetch.image_files import list_images, read_images
from ptqflow.fetch.layout import ORDER, SPLITS, Layout, problems_of_splits
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Source

_LAYOUT = "expected train/<class>/… with test/<class>/… or val/<class>/… or both, or <class>/… alone"


def load_image_folder(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Find images in `train/<class>/…` with `test/<class>/…` or `val/<class>/…` or both, or in `<class>/…` alone.

    They are below `root` or inside the archive `root`. Upper and lower case do not count in the names of the splits.

    Names of classes are compared and returned in NFC, the composed form of Unicode. Files that are no images by their
    names are left out, and counted in a printed line. No image is decoded before the source reads it, which raises a
    DataError for an unreadable one while `data.on_bad_image` is `error`.

    Raises:
        DataError: another layout, or two folders of a split whose names are equal in NFC; or, all in one error, fewer
            than two classes, a class that is empty or that train lacks, or whose name is not UTF-8.
    """
    listing = list_images(root, params)
    layout = _find_layout(root, listing)
    read = partial(read_images, root)
    return layout.source("image files, one folder a class", read, params, preprocessing, listing.ignored.total())


def _find_layout(root: Path, listing: Listing) -> Layout[str]:
    if not listing.files:
        besides = " but files that are left out" if listing.ignored else ""
        raise DataError(f"{root.resolve()} holds no files{besides}; {_LAYOUT}")
    composed = {name: unicodedata.normalize("NFC", name) for name in listing.files + listing.folders}
    depth = _common_depth([composed[name] for name in listing.files])

    def inside(name: str) -> list[str]:  # split when needed: of a million names, the lists are half a gigabyte
        return composed[name].split("/")[depth:]

    folders = {tuple(inside(name)) for name in listing.folders} | {tuple(inside(name)[:-1]) for name in listing.files}
    split_of = _find_splits(root, {parts[0] for parts in folders if parts})
    head = [] if split_of else ["train"]
    if loose := [name for name in listing.files if len(head + inside(name)) < 3]:
        others = f" and {len(loose) - 1:,} others are" if len(loose) > 1 else " is"
        raise DataError(f"{root.resolve()}: {loose[0]}{others} in no class folder; {_LAYOUT}")
    _require_one_form(root, composed, depth + 2 - len(head))
    classes_of: dict[str, set[str]] = {}
    for top, *below in ([*head, *folder] for folder in folders if folder):
        if below:
            classes_of.setdefault(split_of.get(top, top), set()).add(below[0])
    classes = sorted(classes_of["train"])
    index_of = {name: index for index, name in enumerate(classes)}
    names: dict[str, list[str]] = {split: [] for split in sorted(classes_of, key=ORDER.index)}
    labels: dict[str, list[int]] = {split: [] for split in names}
    for name in listing.files:
        top, label = (head + inside(name))[:2]
        split = split_of.get(top, top)
        names[split].append(name)
        labels[split].append(index_of.get(label, -1))
    filled = {split: {classes[index] for index in set(of_split)} for split, of_split in labels.items()}
    if problems := [*_problems_of_names(root, classes), *problems_of_splits(classes, classes_of, filled)]:
        raise DataError(f"{root.resolve()}: {'; '.join(problems)}")
    return Layout(classes, names, {split: np.array(indices, np.int64) for split, indices in labels.items()})


def _problems_of_names(root: Path, classes: Sequence[str]) -> Iterator[str]:
    if len(classes) < 2:
        yield (
            f"there is only the class {classes[0]!r}, and a classifier needs two or more; for images without labels "
            "set data.name=photos"
        )
    if garbled := [name for name in classes if name != name.encode(errors="replace").decode()]:
        remedy = "rename its folder" if root.is_dir() else "set data.encoding to the encoding of the archive's names"
        yield f"the name of the class {garbled[0]!r} is not UTF-8; {remedy}"


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


def _find_splits(root: Path, tops: set[str]) -> dict[str, str]:
    """Return which split each of the outer folders is; none where they are classes.

    Raises:
        DataError: all have names of splits and train is not among them, or alone, or one is there twice; or train is
            among others, which may be classes.
    """
    held = f"{root.resolve()} holds {', '.join(sorted(tops))}"
    splits = {top: SPLITS.get(top.casefold(), "") for top in tops}
    if tops and all(splits.values()):
        if len(set(splits.values())) == len(tops) > 1 and "train" in splits.values():
            return splits
        raise DataError(
            f"{held}, which look like splits: train, and test or val or both, each once, are expected; {_LAYOUT}"
        )
    if "train" in tops:
        raise DataError(
            f"{held}; a folder named train is read as the training split, next to which only val and test are allowed: "
            f"if train is a class, rename its folder; {_LAYOUT}"
        )
    return {}


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
