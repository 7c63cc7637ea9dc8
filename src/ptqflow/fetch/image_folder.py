"""The user's own images: one folder per class, in a folder or an archive."""

import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ptqflow.core.artifacts import naming
from ptqflow.core.errors import DataError
from ptqflow.core.machine import usable_cores
from ptqflow.fetch.archives import Listing, list_files, read_files
from ptqflow.fetch.decoding import UnreadableImageError, decode_image
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Pool, Source, stratified_subset

_LAYOUT = "expected train/<class>/… and test/<class>/…, or <class>/… alone"
_SPLIT_NAMES = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "eval"))
_NAMED = 5  # names in the line about ignored files
_AHEAD = 2  # files in memory for each core


@dataclass(frozen=True)
class _Layout:
    """The files of each split and class, before anything is decoded."""

    classes: list[str]
    names: dict[str, list[str]]
    """Split → file names, sorted."""
    labels: dict[str, np.ndarray]
    """Split → (N,) int64, the class of each file."""


def load_image_folder(root: Path, params: DataParams, spool: Path) -> Source:
    """Read `train/<class>/…` and `test/<class>/…`, or `<class>/…` alone, below `root` or inside the archive `root`.

    Names of classes are compared and returned in NFC, the composed form of Unicode. Hidden and system files are left
    out, and counted in one printed line. `spool` is the file for the decoded images, which may be more than fit in
    memory; the source maps it.

    Raises:
        DataError: another layout, fewer than two classes, an empty class, a class of test that train lacks, a
            class name that is not UTF-8, two folders of a split whose names are equal in NFC, or an unreadable image
            while `data.on_bad_image` is `error`.
    """
    listing = list_files(root, params.encoding)
    if listing.ignored:
        print(_describe_ignored(root, listing.ignored), flush=True)
    layout = _limited(_find_layout(root, listing), params)
    row_of = _decode([name for names in layout.names.values() for name in names], root, params, spool)
    if not row_of:
        raise DataError(f"{root.resolve()}: none of its files is a readable image")
    size = params.image_size
    pixels = np.memmap(spool, np.uint8, "r", shape=(len(row_of), size, size, params.channels))
    pools = {split: _pool(root, layout, split, pixels, row_of) for split in layout.names}
    return Source(
        origin="image files, one folder a class",
        classes=tuple(layout.classes),
        train=pools["train"],
        test=pools.get("test"),
        horizontal_flip=True,
        skipped=sum(map(len, layout.names.values())) - len(row_of),
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
    files = {name: composed[name].split("/")[depth:] for name in listing.files}
    folders = [composed[name].split("/")[depth:] for name in listing.folders] + [p[:-1] for p in files.values()]
    tops = {parts[0] for parts in folders if parts}
    _require_known_splits(root, tops)
    head = [] if "train" in tops else ["train"]
    for name, parts in files.items():
        if len(head + parts) < 3:
            raise DataError(f"{root.resolve()}: {name} is in no class folder; {_LAYOUT}")
    _require_one_form(root, composed, depth + 2 - len(head))
    classes_of: dict[str, set[str]] = {}
    for parts in (head + folder for folder in folders):
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
    split_of = {name: (head + parts)[0] for name, parts in files.items()}
    class_of = {name: (head + parts)[1] for name, parts in files.items()}
    names = {split: [name for name in files if split_of[name] == split] for split in classes_of}
    index_of = {name: index for index, name in enumerate(classes)}
    labels = {split: np.array([index_of[class_of[name]] for name in names[split]], dtype=np.int64) for split in names}
    for split, present in classes_of.items():
        if empty := sorted(present - {class_of[name] for name in names[split]}):
            raise DataError(f"{root.resolve()}: the class {empty[0]!r} has no images in {split}")
    return _Layout(classes, names, labels)


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
    parts = [name.split("/") for name in files]
    depth = 0
    while (
        len({p[depth] for p in parts}) == 1
        and parts[0][depth].casefold() not in ("train", "training")
        and min(map(len, parts)) > depth + 2
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


def _decode(names: list[str], root: Path, params: DataParams, spool: Path) -> dict[str, int]:
    """Write the decoded images to `spool` in turn and return the row of each; unreadable ones have none."""
    row_of: dict[str, int] = {}
    with (
        naming(spool),
        spool.open("wb") as out,
        tqdm(total=len(names), desc="read images", unit="image", disable=None) as progress,
    ):
        for name, image in _decoded(root, names, params):
            progress.update()
            if isinstance(image, np.ndarray):
                row_of[name] = len(row_of)
                out.write(image.tobytes())
            elif params.on_bad_image == "error":
                raise DataError(
                    f"{root.resolve()}: {name} is no readable image ({image}); fix or remove it, or set "
                    "data.on_bad_image=skip"
                )
    return row_of


def _decoded(
    root: Path, names: list[str], params: DataParams
) -> Iterator[tuple[str, np.ndarray | UnreadableImageError]]:
    def decode(file: tuple[str, bytes]) -> tuple[str, np.ndarray | UnreadableImageError]:
        name, data = file
        try:
            return name, decode_image(data, params.image_size, params.channels, params.max_megapixels)
        except UnreadableImageError as error:
            return name, error

    files, cores = read_files(root, names, params.encoding, params.max_megapixels), usable_cores()
    with (
        warnings.catch_warnings(action="ignore"),  # Pillow's, about files that it reads nevertheless
        ThreadPoolExecutor(cores) as threads,  # Pillow releases the interpreter lock while it decodes
    ):
        running = deque(threads.submit(decode, file) for file in islice(files, _AHEAD * cores))
        while running:
            yield running.popleft().result()
            running.extend(threads.submit(decode, file) for file in islice(files, 1))


def _pool(root: Path, layout: _Layout, split: str, pixels: np.ndarray, row_of: dict[str, int]) -> Pool:
    kept = [
        (row_of[name], label)
        for name, label in zip(layout.names[split], layout.labels[split], strict=True)
        if name in row_of
    ]
    pool = Pool(pixels, np.array([row for row, _ in kept], np.int64), np.array([label for _, label in kept], np.int64))
    if lost := sorted({layout.classes[i] for i in layout.labels[split]} - {layout.classes[i] for i in pool.labels}):
        raise DataError(f"{root.resolve()}: the class {lost[0]!r} has no readable images in {split}")
    return pool
