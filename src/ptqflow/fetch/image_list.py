"""The user's own images with a table of labels, in a folder or an archive."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import largest_file, list_files, read_files
from ptqflow.fetch.image_files import read_images
from ptqflow.fetch.layout import ORDER, SPLITS, Layout, problems_of_splits
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Source
from ptqflow.fetch.tables import SUFFIXES, Row, Table, read_table


def load_image_list(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Find images by the one CSV or parquet file in `root`, a folder or an archive.

    Its columns are `path`, `label` and maybe `split`. A path is relative to the folder of the table. The names of
    splits are those of `SPLITS`, in upper or lower case; without the column, or where it has train alone, the others
    are drawn.

    Raises:
        DataError: there is no such table, or, all in one error, it lacks a column, names a file that does not exist or
            twice, a label that is empty or a split that is none, fewer than two classes, or one that train lacks.
    """
    listing = list_files(root, params.encoding)
    name = _find_table(root, listing.files)
    where = f"{root.resolve()}: {name}"
    [(_, data)] = read_files(root, [name], params.encoding, params.max_megapixels)
    table = read_table(where, name, data, largest_file(params.max_megapixels))
    around = "" if "/" not in name else f"{name.rpartition('/')[0]}/"
    rows = {str(PurePosixPath(around + row["path"])): row for row in table.rows}
    problems = [*_problems(table, set(listing.files), around)]
    if not problems:
        splits = _by_split(rows)
        classes = sorted({row["label"] for row in splits.get("train", {}).values()})
        classes_of = {split: {row["label"] for row in found.values()} for split, found in splits.items()}
        if len(classes) < 2:
            problems.append(f"train has {len(classes)} classes, and a classifier needs two or more")
        problems += problems_of_splits(classes, classes_of, classes_of)
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}")
    index_of = {name: index for index, name in enumerate(classes)}
    layout = Layout(
        classes,
        {split: sorted(found) for split, found in splits.items()},
        {
            split: np.array([index_of[found[file]["label"]] for file in sorted(found)], np.int64)
            for split, found in splits.items()
        },
    )
    others = len(listing.files) - 1 - len(rows)
    if others:
        print(f"{root.resolve()}: {others:,} files that {name} does not name are left out", flush=True)
    ignored = listing.ignored.total() + others
    return layout.source(
        f"image files and labels of {name}", partial(read_images, root), params, preprocessing, ignored
    )


def _find_table(root: Path, files: Sequence[str]) -> str:
    found = [name for name in files if name.lower().endswith(SUFFIXES)]
    if len(found) != 1:
        what = f"{len(found)} CSV or parquet files, such as {found[0]}" if found else "no CSV or parquet file"
        raise DataError(
            f"{root.resolve()} holds {what}; data.name=image_list needs one, with columns path, label and split"
        )
    return found[0]


def _problems(table: Table, files: set[str], around: str) -> Iterator[str]:
    """Yield each kind of mistake once, with the first row that has it and how many have."""
    found: dict[str, list[tuple[int, str]]] = {}
    seen: set[str] = set()
    for number, row in enumerate(table.rows, table.first):
        name = str(PurePosixPath(around + row["path"]))
        is_wrong = {
            "has no file": name not in files,
            f"has a file that another {table.unit} has": name in seen,
            "has no label": not row["label"],
            f"has a split other than {', '.join(ORDER)}": bool(row["split"]) and row["split"].lower() not in SPLITS,
        }
        seen.add(name)
        for kind in filter(is_wrong.__getitem__, is_wrong):
            found.setdefault(kind, []).append((number, ", ".join(row.values())))
    if not table.rows:
        yield "there are no rows"
    for kind, rows in found.items():
        (number, text), more = rows[0], len(rows) - 1
        yield f"{table.unit} {number} ({text}) {kind}" + (f", and so {more:,} more" if more else "")


def _by_split(rows: dict[str, Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for name, row in rows.items():
        found.setdefault(SPLITS.get(row["split"].lower(), "train"), {})[name] = row
    return {split: found[split] for split in ORDER if split in found}
