"""Files in a folder or an archive, read without unpacking."""

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Literal, Self, cast

from ptqflow.core.artifacts import naming
from ptqflow.core.errors import DataError

# What reading raises if the file is no archive or is damaged.
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,  # gzip and bz2; a zip with an offset before its start
    ValueError,  # a name that is marked as UTF-8 and is not
    NotImplementedError,  # a compression that zipfile does not support
)


_COMPRESSIONS: dict[bytes, Callable[[Path, Literal["rb"]], object]] = {
    rb"\x1f\x8b": gzip.open,
    rb"\xfd7zXZ": lzma.open,
    rb"BZh\d1AY&SY": bz2.open,
}
_BLOCK = 1 << 20  # bytes


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


@dataclass(frozen=True)
class Listing:
    """Names relative to the root, separated by `/`, sorted."""

    files: list[str]
    folders: list[str]


def list_files(root: Path) -> Listing:
    """List a folder or a .tar, .tar.gz, .tar.xz or .zip archive, detected by content; hidden files are left out.

    Raises:
        DataError: `root` is none of these or is truncated; a folder holds a link to a folder; an archive holds a link
            or a device, a file twice or a name outside of it.
    """
    if root.is_dir():
        entries = [(path.relative_to(root).as_posix(), path.is_dir()) for path in root.rglob("*")]
    else:
        entries = [(name, is_folder) for name, is_folder, _ in _archive_entries(root, ())]
    visible = sorted((name, is_folder) for name, is_folder in entries if name != "." and not _is_hidden(name))
    files = [name for name, is_folder in visible if not is_folder]
    folders = [name for name, is_folder in visible if is_folder]
    if link := next((name for name in folders if (root / name).is_symlink()), None):
        raise DataError(
            f"{root.resolve()}: {link} is a link to a folder, which DVC does not follow; replace it with a folder"
        )
    if twice := next((name for name, following in pairwise(files) if name == following), None):
        raise DataError(f"{root.resolve()} holds {twice} twice; pack each file once")
    return Listing(files, folders)


def read_files(root: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in `names`, in the order in which they are stored.

    Raises:
        DataError: as in `list_files`.
        OSError: a file of a folder cannot be read.
    """
    if root.is_dir():
        for name in sorted(names):
            with naming(root / name):
                content = (root / name).read_bytes()
            yield name, content
    else:
        wanted = frozenset(names)
        for name, _, packed in _archive_entries(root, wanted):
            if packed is not None:
                yield name, packed


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _archive_entries(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bool, bytes | None]]:
    """Yield (name, is_folder, content), the content only of wanted files."""
    try:
        if zipfile.is_zipfile(path):
            yield from _zip_entries(path, wanted)
        else:
            yield from _tar_entries(path, wanted)
    except _BROKEN as error:
        raise DataError(
            f"{path.resolve()} cannot be read as a .tar, .tar.gz, .tar.xz or .zip archive ({error})"
        ) from None


def _tar_entries(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bool, bytes | None]]:
    # A stream, because seeking back in a compressed archive decompresses it from its start.
    with _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarMember) as archive:
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


def _zip_entries(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bool, bytes | None]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _checked_name(path, member.filename)
            if (member.external_attr >> 16) & 0o170000 == 0o120000:
                raise DataError(f"{path.resolve()}: {member.filename!r} is a link; pack plain files")
            if member.flag_bits & 1:
                raise DataError(f"{path.resolve()}: {member.filename!r} is encrypted; pack it without a password")
            yield name, member.filename.endswith("/"), archive.read(member) if name in wanted else None


def _checked_name(archive: Path, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise DataError(f"{archive.resolve()}: the name {name!r} is a path outside of the archive; nothing was read")
    return str(path)
