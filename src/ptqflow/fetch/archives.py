"""Files in a folder or an archive, read without unpacking."""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Literal, Self, cast

from ptqflow.core.artifacts import naming
from ptqflow.core.errors import DataError
from ptqflow.fetch.system_files import system_name

# What reading raises if the file is no archive or is damaged.
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,  # gzip and bz2; a zip with an offset before its start
    ValueError,  # a number in a header that is none
    NotImplementedError,  # a compression that zipfile does not support
)


_COMPRESSIONS: dict[bytes, Callable[[Path, Literal["rb"]], object]] = {
    rb"\x1f\x8b": gzip.open,
    rb"\xfd7zXZ": lzma.open,
    rb"BZh\d1AY&SY": bz2.open,
}
_BLOCK = 1 << 20  # bytes
_PAST_END = 16  # reads that return nothing: tarfile would read for as long as a header says
_BYTES_PER_PIXEL = 4
_SMALL_STEP = 1 << 12  # bytes; bz2 and lzma expand all that zipfile reads of them at once
_UTF8_FLAG = 0x800  # of an entry of a zip
_ENCODINGS = ("utf-8", "gbk", "shift_jis", "cp866", "cp850")  # of Linux and macOS, and of Windows by region


class _TarMember(tarfile.TarInfo):
    """A header that ends the archive only if it consists of zeros, as the format requires.

    After the first file, tarfile also reads a damaged or missing header as the end: files would be missing.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


class _Ending:
    """A stream that raises where a reader does not see that it has ended."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._empty = stream, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._empty = 0 if data else self._empty + 1
        if self._empty > _PAST_END:
            raise EOFError("it ends in the middle of a file")
        return data


@dataclass(frozen=True)
class Listing:
    """Names relative to the root, separated by `/`, sorted."""

    files: list[str]
    folders: list[str]
    ignored: Counter[str]
    """How many files each hidden or system name hides; see `system_name`."""


def list_files(root: Path, encoding: str | None = None) -> Listing:
    """List a folder or a .tar, .tar.gz, .tar.xz or .zip archive, detected by content.

    Hidden files and those of operating systems and network storage are left out and counted.

    Args:
        root: the folder or archive.
        encoding: of the names in an archive that does not state it, as `data.encoding`.

    Raises:
        DataError: `root` is none of these, such as a pipe, or is truncated; a folder holds a link to a folder; an
            archive holds a link or a device, a file twice, a name outside of it or one whose encoding is unknown.
    """
    if root.is_dir():
        entries = list(_folder_entries(root))
    elif root.exists() and not root.is_file():
        raise DataError(f"{root.resolve()} is a pipe or a device, which may never end; pass a folder or an archive")
    else:
        entries = [(name, is_folder) for name, is_folder, _ in _archive_entries(root, (), encoding)]
    files: list[str] = []
    folders: list[str] = []
    ignored = Counter[str]()
    for name, is_folder in sorted(entry for entry in entries if entry[0] != "."):
        if hidden_by := system_name(name):
            ignored[hidden_by] += not is_folder
        else:
            (folders if is_folder else files).append(name)
    if link := next((name for name in folders if (root / name).is_symlink()), None):
        raise DataError(
            f"{root.resolve()}: {link} is a link to a folder, which DVC does not follow; replace it with a folder"
        )
    if twice := next((name for name, following in pairwise(files) if name == following), None):
        raise DataError(f"{root.resolve()} holds {twice} twice; pack each file once")
    return Listing(files, folders, +ignored)


def read_files(
    root: Path, names: Collection[str], encoding: str | None = None, max_megapixels: int = 50
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in `names`, in the order in which they are stored.

    `encoding` is that of `list_files`, which returned the names.

    Raises:
        DataError: as in `list_files`, or a file is a pipe or a device, or has more than 4 bytes for each of
            `max_megapixels`; it is not read.
        OSError: a file of a folder cannot be read.
    """
    if root.is_dir():
        for name in sorted(names):
            with naming(root / name):
                status = (root / name).stat()
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{root.resolve()}: {name} is a pipe or a device, which may never end; remove it")
                _require_size(root, name, status.st_size, max_megapixels)
                content = (root / name).read_bytes()
            yield name, content
    else:
        wanted = frozenset(names)
        for name, _, packed in _archive_entries(root, wanted, encoding, max_megapixels):
            if packed is not None:
                yield name, packed


def largest_file(max_megapixels: int) -> int:
    """Return how many bytes a file may have with this `data.max_megapixels`."""
    return max_megapixels * 1_000_000 * _BYTES_PER_PIXEL


def _folder_entries(root: Path) -> Iterator[tuple[str, bool]]:
    """Yield (name, is_folder), also of links to folders; not by `Path.rglob`, which keeps a path of each file."""
    for around, folders, files in os.walk(root):
        prefix = "" if around == str(root) else f"{Path(around).relative_to(root).as_posix()}/"
        yield from ((f"{prefix}{name}", True) for name in folders)
        yield from ((f"{prefix}{name}", False) for name in files)


def _require_size(root: Path, name: str, size: int, max_megapixels: int) -> None:
    """Refuse a file before it takes memory."""
    if size > largest_file(max_megapixels):
        raise DataError(
            f"{root.resolve()}: {name} has {size:,} bytes, and data.max_megapixels={max_megapixels} allows "
            f"{max_megapixels * _BYTES_PER_PIXEL} MB in a file, {_BYTES_PER_PIXEL} bytes a pixel; raise it, or remove "
            "the file"
        )


def _archive_entries(
    path: Path, wanted: Collection[str], encoding: str | None, max_megapixels: int = 0
) -> Iterator[tuple[str, bool, bytes | None]]:
    """Yield (name, is_folder, content), the content only of wanted files."""
    try:
        if zipfile.is_zipfile(path):
            yield from _zip_entries(path, wanted, encoding, max_megapixels)
        else:
            yield from _tar_entries(path, wanted, encoding, max_megapixels)
    except UnicodeDecodeError as error:
        said = f"data.encoding={encoding}" if encoding else "the UTF-8 that it is said to be"
        remedy = f"set it to another, such as {', '.join(_ENCODINGS)}" if encoding else "pack it again"
        raise DataError(
            f"{path.resolve()}: the name {error.object!r} is not {said} ({error.reason} at byte {error.start}); "
            + remedy
        ) from None
    except _BROKEN as error:
        raise DataError(
            f"{path.resolve()} cannot be read as a .tar, .tar.gz, .tar.xz or .zip archive ({error})"
        ) from None


def _tar_entries(
    path: Path, wanted: Collection[str], encoding: str | None, max_megapixels: int
) -> Iterator[tuple[str, bool, bytes | None]]:
    errors = "strict" if encoding else "surrogateescape"
    with (
        _decompressed(path) as stream,
        # A stream, because seeking back in a compressed archive decompresses it from its start.
        tarfile.open(
            fileobj=cast(BinaryIO, _Ending(stream)),
            mode="r|",
            tarinfo=_TarMember,
            encoding=encoding or "utf-8",
            errors=errors,
        ) as archive,
    ):
        for member in archive:
            name = _checked_name(path, member.name)
            if member.issym() or member.islnk():
                raise DataError(
                    f"{path.resolve()}: {member.name!r} is a link (to {member.linkname!r}); "
                    "pack plain files, with `tar --dereference --hard-dereference`"
                )
            if member.isdir():
                yield name, True, None
            elif member.isfile():
                if name in wanted:
                    _require_size(path, name, member.size, max_megapixels)
                file = archive.extractfile(member) if name in wanted else None
                yield name, False, file.read() if file else None
            else:
                raise DataError(f"{path.resolve()}: {member.name!r} is neither a file nor a folder; pack plain files")
        while stream.read(_BLOCK):  # the checksum follows the end of the tar
            pass


def _decompressed(path: Path) -> BinaryIO:
    """Open a compressed or plain file; unlike tarfile's, these streams detect a missing or damaged end."""
    with path.open("rb") as file:
        start = file.read(10)
    opener = next((opener for magic, opener in _COMPRESSIONS.items() if re.match(magic, start)), Path.open)
    return cast(BinaryIO, opener(path, "rb"))


def _zip_entries(
    path: Path, wanted: Collection[str], encoding: str | None, max_megapixels: int
) -> Iterator[tuple[str, bool, bytes | None]]:
    with zipfile.ZipFile(path, metadata_encoding=encoding) as archive:
        for member in archive.infolist():
            if encoding is None:
                _require_known_encoding(path, member)
            name = _checked_name(path, member.filename)
            if (member.external_attr >> 16) & 0o170000 == 0o120000:
                raise DataError(f"{path.resolve()}: {member.filename!r} is a link; pack plain files")
            if member.flag_bits & 1:
                raise DataError(f"{path.resolve()}: {member.filename!r} is encrypted; pack it without a password")
            is_folder = member.filename.endswith(("/", "\\"))  # a backslash in zips of PowerShell 5
            if name in wanted:
                _require_size(path, name, member.file_size, max_megapixels)
            yield name, is_folder, _read_member(archive, member) if name in wanted else None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the content of a file, of which zipfile reads no more than the size that its header states."""
    is_bounded = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    step = member.file_size + 1 if is_bounded else _SMALL_STEP
    with archive.open(member) as file:
        return b"".join(iter(lambda: file.read(step), b""))


def _require_known_encoding(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a name outside ASCII without the flag that says UTF-8: zipfile reads it as code page 437."""
    if member.flag_bits & _UTF8_FLAG or member.orig_filename.isascii():
        return
    name = member.orig_filename.encode("cp437")
    raise DataError(
        f"{archive.resolve()}: the entry {name!r} does not say in which encoding its name is; set data.encoding to the "
        f"one that reads it right: {_describe_readings(name)}, or another"
    )


def _describe_readings(name: bytes) -> str:
    readings = []
    for encoding in _ENCODINGS:
        with suppress(UnicodeDecodeError):
            parts = name.decode(encoding).replace("\\", "/").split("/")
            readings.append(f"{encoding} ({next(part for part in parts if not part.isascii())!r})")
    return ", ".join(readings)


def _checked_name(archive: Path, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise DataError(f"{archive.resolve()}: the name {name!r} is a path outside of the archive; nothing was read")
    return str(path)
