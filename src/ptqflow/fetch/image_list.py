"""The user's own images with a table of labels, in a folder or an archive."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import list_files, read_files
from ptqflow.fetch.layout import ORDER, SPLITS, Layout, problems_of_splits
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Source

_COLUMNS = ("path", "label", "split")
_Row = dict[str, str]


def load_image_list(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Find images by the one CSV file in `root`, a folder or an archive: columns `path`, `label` and maybe `split`.

    A path is relative to the folder of the CSV file. The names of splits are those of `SPLITS`, in upper or lower case;
    without the column, or where it has train alone, the others are drawn.

    Raises:
        DataError: there is no such table, or, all in one error, it lacks a column, names a file that does not exist or
            twice, a label that is empty or a split that is none, fewer than two classes, or one that train lacks.
    """
    listing = list_files(root, params.encoding)
    table = _find_table(root, listing.files)
    rows = _read_table(root, table, params)
    around = "" if "/" not in table else f"{table.rpartition('/')[0]}/"
    names = {name: row for row in rows for name in [str(PurePosixPath(around + row["path"]))]}
    problems = [*_problems(rows, set(listing.files), around)]
    if not problems:
        splits = _by_split(names)
        classes = sorted({row["label"] for row in splits.get("train", {}).values()})
        classes_of = {split: {row["label"] for row in found.values()} for split, found in splits.items()}
        if len(classes) < 2:
            problems.append(f"train has {len(classes)} classes, and a classifier needs two or more")
        problems += problems_of_splits(classes, classes_of, classes_of)
    if problems:
        raise DataError(f"{root.resolve()}: {table}: {'; '.join(problems)}")
    index_of = {name: index for index, name in enumerate(classes)}
    layout = Layout(
        classes,
        {split: sorted(found) for split, found in splits.items()},
        {
            split: np.array([index_of[found[n]["label"]] for n in sorted(found)], np.int64)
            for split, found in splits.items()
        },
    )
    others = len(listing.files) - 1 - len(names)
    if others:
        print(f"{root.resolve()}: {others:,} files that {table} does not name are left out", flush=True)
    return layout.source(
        f"image files and labels of {table}", root, params, preprocessing, listing.ignored.total() + others
    )


def _find_table(root: Path, files: Sequence[str]) -> str:
    found = [name for name in files if name.lower().endswith(".csv")]
    if len(found) != 1:
        what = f"{len(found)} CSV files, such as {found[0]}" if found else "no CSV file"
        raise DataError(
            f"{root.resolve()} holds {what}; data.name=image_list needs one, with columns path, label and split"
        )
    return found[0]


def _read_table(root: Path, table: str, params: DataParams) -> list[_Row]:
    [(_, data)] = read_files(root, [table], params.encoding, params.max_megapixels)
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns = [(column or "").strip().lower() for column in reader.fieldnames or []]
        if missing := [column for column in _COLUMNS[:2] if column not in columns]:
            raise DataError(
                f"{root.resolve()}: {table} has the columns {', '.join(columns) or 'none'}; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing"
            )
        reader.fieldnames = columns
        return [{column: (row.get(column) or "").strip() for column in _COLUMNS} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{root.resolve()}: {table} is no CSV table in UTF-8 ({error}); save it so") from None


def _problems(rows: Sequence[_Row], files: set[str], around: str) -> Iterator[str]:
    """Yield each kind of mistake once, with the first line that has it and how many have."""
    found: dict[str, list[tuple[int, str]]] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        name = str(PurePosixPath(around + row["path"]))
        is_wrong = {
            "has no file": name not in files,
            "has a file that another line has": name in seen,
            "has no label": not row["label"],
            f"has a split other than {', '.join(ORDER)}": bool(row["split"]) and row["split"].lower() not in SPLITS,
        }
        seen.add(name)
        for kind in filter(is_wrong.__getitem__, is_wrong):
            found.setdefault(kind, []).append((number, ", ".join(row.values())))
    if not rows:
        yield "there are no rows"
    for kind, lines in found.items():
        (number, text), more = lines[0], len(lines) - 1
        yield f"line {number} ({text}) {kind}" + (f", and so {more:,} more" if more else "")


def _by_split(names: dict[str, _Row]) -> dict[str, dict[str, _Row]]:
    found: dict[str, dict[str, _Row]] = {}
    for name, row in names.items():
        found.setdefault(SPLITS.get(row["split"].lower(), "train"), {})[name] = row
    return {split: found[split] for split in ORDER if split in found}
