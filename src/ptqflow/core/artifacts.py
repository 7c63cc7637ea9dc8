"""Files that appear whole or not at all, with equal bytes for equal content."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ptqflow.core.errors import ArtifactError
from ptqflow.core.paths import METRICS, PLOTS

REMEDY = "run `ptqflow repair`, then `dvc repro`"
"""For a damaged output. A plain `dvc repro` restores it from a damaged object of DVC's cache, again and again."""


class Card(BaseModel):
    """Base of the JSON cards that lie beside arrays and weights and hold all that a later stage needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False)


C = TypeVar("C", bound=Card)
_MOST_TEXT = 1 << 28  # bytes


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name this file in an OSError that names none: a read or a write that fails, unlike an open, does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it there, so that no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.unlink(missing_ok=True)  # a killed run may have left a link there, which would be written through
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with two spaces of indent in the order given; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_metrics(stage: str, metrics: Card) -> None:
    """Write metrics/<stage>.json, which git keeps and `dvc metrics diff` compares; None is left out."""
    write_json(METRICS / f"{stage}.json", metrics.model_dump(mode="json", exclude_none=True))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the keys of the first one as header; None is an empty cell."""
    _write_csv(path, list(rows[0]), rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


@dataclass(frozen=True)
class Table(Generic[C]):
    """A CSV file in metrics/plots, which `dvc plots diff` compares and a later stage reads."""

    name: str
    row: type[C]
    """Its fields, or their aliases, are the columns. A field with a default of None may have empty cells."""
    fewest: int = 0
    """Rows."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        return PLOTS / self.name

    @property
    def columns(self) -> list[str]:
        """Header of the file."""
        return [field.alias or name for name, field in self.row.model_fields.items()]

    def write(self, rows: Iterable[C]) -> None:
        """Write the header and the rows, of which there may be none."""
        _write_csv(self.path, self.columns, (row.model_dump(by_alias=True) for row in rows))

    def read(self) -> list[C]:
        """Read the rows back.

        Raises:
            ArtifactError: the file is missing, has other columns or too few rows, or a cell does not hold what this
                version writes.
        """
        try:
            rows = self._read_rows()
        except csv.Error as error:
            raise ArtifactError(f"{self.path}: {error}; {REMEDY}") from None
        if len(rows) < self.fewest:
            raise ArtifactError(f"{self.path} has {len(rows)} rows, not {self.fewest} or more; {REMEDY}")
        return rows

    def _read_rows(self) -> list[C]:
        text = _read_text(self.path)
        if not text.endswith("\n"):
            raise ArtifactError(f"{self.path} is empty or cut off: {REMEDY}")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if reader.fieldnames != self.columns:
            raise ArtifactError(
                f"{self.path} has the columns {', '.join(reader.fieldnames or [])}, not {', '.join(self.columns)}; "
                f"{REMEDY}"
            )
        optional = {field.alias or name for name, field in self.row.model_fields.items() if not field.is_required()}
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ArtifactError(f"{self.path}, line {reader.line_num}: not {len(self.columns)} cells; {REMEDY}")
            cells = {column: cell for column, cell in row.items() if cell or column not in optional}
            try:
                rows.append(self.row.model_validate_strings(cells))
            except ValidationError as error:
                where, problem = _first_problem(error)
                raise ArtifactError(f"{self.path}, line {reader.line_num}: {where}: {problem}; {REMEDY}") from None
        return rows


def write_card(path: Path, card: Card) -> None:
    """Write a card as JSON."""
    write_json(path, card.model_dump(mode="json"))


def read_card(path: Path, card: type[C]) -> C:
    """Read a card back.

    Raises:
        ArtifactError: the file is missing, is not JSON, or does not hold what this version writes.
    """
    text = _read_text(path)
    try:
        return card.model_validate_json(text)
    except ValidationError as error:
        where, problem = _first_problem(error)
        raise ArtifactError(f"{path}: {where}: {problem}; {REMEDY}") from None


def read_regular(path: Path, most: int, remedy: str = REMEDY) -> bytes:
    """Return the bytes of a regular file, or of one that a link points to; pipes and devices may never end.

    Args:
        path: of the file.
        most: bytes that it may have.
        remedy: that the error names.

    Raises:
        ArtifactError: it is no regular file, or has more than `most` bytes.
        OSError: it cannot be read.
    """
    no_file = ArtifactError(f"{path} is no file: a pipe, a device or a folder; {remedy}")
    try:
        with naming(path), open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise no_file
            if status.st_size > most:
                raise ArtifactError(f"{path} has {status.st_size:,} bytes, and {most:,} are the most; {remedy}")
            return file.read(status.st_size)  # files of /proc have size 0, and some never end
    except IsADirectoryError:
        raise no_file from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe waits for who writes into it


def _read_text(path: Path) -> str:
    try:
        text = read_regular(path, _MOST_TEXT).decode()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run `dvc repro`") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not UTF-8 text ({error}); {REMEDY}") from None
    if re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE):
        raise ArtifactError(f"{path} holds conflict markers of git: resolve the conflict, then run `dvc repro`")
    return text


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the first field that is not valid, and why."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]) or "the file", first["msg"]


@dataclass(frozen=True)
class HashedFile(Generic[C]):
    """A file beside a card that holds its hash, in a directory that a stage writes."""

    name: str
    card: type[C]
    hash_key: str
    """Of the card."""
    stage: str

    def path(self, directory: Path) -> Path:
        """Return where the file lies."""
        return directory / self.name

    def write(self, directory: Path, data: bytes, card: C) -> None:
        """Write the file, and the card with its SHA-256."""
        write_bytes(self.path(directory), data)
        write_card(directory / "card.json", card.model_copy(update={self.hash_key: hashlib.sha256(data).hexdigest()}))

    def read(self, directory: Path) -> tuple[bytes, C]:
        """Return the file's bytes and the card.

        Raises:
            ArtifactError: one of them is missing, or the file is not the one that the card describes.
        """
        card, file = read_card(directory / "card.json", self.card), self.path(directory)
        data = file.read_bytes() if file.exists() else None
        if data is None or hashlib.sha256(data).hexdigest() != getattr(card, self.hash_key):
            raise ArtifactError(f"{file} is missing or not the file that `{self.stage}` wrote; {REMEDY}")
        return data, card


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` that takes its place when the block ends well."""
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
