"""Tables of labels, as rows of text: CSV and parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ptqflow.core.errors import DataError, one_line
from ptqflow.fetch.arrow import import_pyarrow, is_text

SUFFIXES = (".csv", ".parquet")
COLUMNS = ("path", "label", "split")
"""The last one may be missing."""
_ROWS = 1 << 12  # of a parquet file in memory at a time

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """Rows in the order of their file."""

    rows: list[Row]
    """Column → value without blanks around it, of all `COLUMNS`; an empty text for what is missing."""
    unit: str
    """What a row of such a file is called."""
    first: int
    """Number of the first row in these units."""


def read_table(where: str, name: str, data: bytes, most: int) -> Table:
    """Read a CSV file in UTF-8 or, where the name ends in `.parquet`, a parquet file.

    Upper and lower case and blanks around them do not count in the names of columns; those of other names are not read.

    Args:
        where: folder or archive and name, for an error.
        name: of the file.
        data: its content.
        most: bytes that all text of the table may have, so that a small file does not expand to gigabytes.

    Raises:
        DataError: no such table, a column is missing or there twice, values are neither text nor integers, the text is
            longer than `most`, or pyarrow is not installed.
    """
    if not name.lower().endswith(".parquet"):
        return Table(_read_csv(where, data), "line", 2)
    pyarrow = import_pyarrow(f"{where} is a parquet file, which")
    try:
        return Table(list(_bounded(where, _parquet_rows(where, data), most)), "row", 1)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is no readable parquet file ({one_line(error)}); write it again") from None


def _read_csv(where: str, data: bytes) -> list[Row]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns = [column or "" for column in reader.fieldnames or []]
        found = _find_columns(where, columns)
        reader.fieldnames = columns
        return [
            {column: (row[found[column]] or "").strip() if column in found else "" for column in COLUMNS}
            for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is no CSV table in UTF-8 ({error}); save it so") from None


def _parquet_rows(where: str, data: bytes) -> Iterator[Row]:
    from pyarrow import parquet

    with parquet.ParquetFile(io.BytesIO(data)) as file:
        found = _find_columns(where, file.schema_arrow.names)
        for column in found.values():
            _require_text_or_integers(where, column, file.schema_arrow.field(column).type)
        for batch in file.iter_batches(_ROWS, columns=list(found.values())):
            missing = [None] * len(batch)
            values = (batch[found[column]].to_pylist() if column in found else missing for column in COLUMNS)
            for row in zip(*values, strict=True):
                cells = ("" if cell is None else str(cell).strip() for cell in row)
                yield dict(zip(COLUMNS, cells, strict=True))


def _bounded(where: str, rows: Iterator[Row], most: int) -> Iterator[Row]:
    length = 0
    for row in rows:
        length += len(COLUMNS) + sum(map(len, row.values()))  # as in a CSV file
        if length > most:
            raise DataError(
                f"{where} has text of more than {most:,} bytes, which is what data.max_megapixels allows; raise it, or "
                "remove rows"
            )
        yield row


def _find_columns(where: str, columns: Sequence[str]) -> dict[str, str]:
    """Return what those of `COLUMNS` that exist are called in the file."""
    names = [column.strip().lower() for column in columns]
    if missing := [column for column in COLUMNS[:2] if column not in names]:
        raise DataError(
            f"{where} has the columns {', '.join(names) or 'none'}; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    if twice := [column for column in COLUMNS if names.count(column) > 1]:
        raise DataError(f"{where} has the column {twice[0]} {names.count(twice[0])} times; keep one")
    return {column: columns[names.index(column)] for column in COLUMNS if column in names}


def _require_text_or_integers(where: str, column: str, kind: Any) -> None:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (is_text(value) or types.is_integer(value) or types.is_null(value)):
        raise DataError(f"{where}: the column {column} has values of type {kind}; write text or integers")
