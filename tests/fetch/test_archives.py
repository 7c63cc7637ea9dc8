"""Folders and archives are listed and read alike, and archives cannot lead out of themselves."""

import gzip
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from samples import (
    ARCHIVE_WRITERS,
    WRITERS,
    image_files,
    write_folder,
    write_tar,
    write_zip,
    write_zip_of_raw_names,
)

import ptqflow
from ptqflow.core.errors import DataError
from ptqflow.fetch.archives import list_files, read_files

GIVEN = Path("given")
COMPRESSED = {
    "tar.bz2": lambda path, files: write_tar(path, files, "w:bz2"),
    **{kind: write for kind, write in ARCHIVE_WRITERS.items() if kind != "tar"},
}
ODD_NAMES = {"train/Ünïcode class/a b.png": b"1", "train/<script>/'quoted'.png": b"2", "train/a,b/\t.png": b"3"}


def read_all(root: Path) -> dict[str, bytes]:
    return dict(read_files(root, list_files(root).files))


def refusal(root: Path = GIVEN) -> str:
    with pytest.raises(DataError) as caught:
        read_all(root)
    assert str(root.resolve()) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_names_and_bytes_are_those_of_the_files(kind: str) -> None:
    files = image_files(2, 1) | ODD_NAMES
    root = WRITERS[kind](GIVEN, files)
    listing = list_files(root)
    assert listing.files == sorted(files)
    assert dict(read_files(root, listing.files)) == files
    assert dict(read_files(root, ["train/a,b/\t.png"])) == {"train/a,b/\t.png": b"3"}


@pytest.mark.parametrize("kind", WRITERS)
def test_empty_folders_are_listed(kind: str) -> None:
    root = WRITERS[kind](GIVEN, {"train/cat/0.png": b"1", "train/dog/": b""})
    assert "train/dog" in list_files(root).folders


@pytest.mark.parametrize("kind", WRITERS)
def test_hidden_and_system_files_are_left_out_at_any_depth_and_counted(kind: str) -> None:
    ignored = {
        ".DS_Store": b"",
        "train/.x/a.png": b"",
        "__MACOSX/train/cat/0.png": b"",
        "train/cat/._0.png": b"",
        "train/cat/._1.png": b"",
        "@eaDir/": b"",
        "train/@eaDir/cat/0.png": b"",
        "train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png": b"",
        "train/cat/Thumbs.db": b"",
        "System Volume Information/": b"",
    }
    listing = list_files(WRITERS[kind](GIVEN, {"train/cat/0.png": b"1"} | ignored))
    assert listing.files == ["train/cat/0.png"]
    assert set(listing.folders) <= {"train", "train/cat"}
    assert listing.ignored == {".DS_Store": 1, ".x": 1, "__MACOSX": 1, "._*": 2, "@eaDir": 2, "Thumbs.db": 1}


def test_an_archive_made_of_the_current_folder_lists_as_the_folder() -> None:
    write_folder(GIVEN, {"train/cat/0.png": b"1"})
    with tarfile.open("given.tar", "w") as archive:
        archive.add("given", ".")
    assert list_files(Path("given.tar")) == list_files(GIVEN)


def test_a_file_of_a_folder_may_be_a_link() -> None:
    write_folder(GIVEN, {"train/cat/0.png": b"1"})
    Path("given/train/cat/1.png").symlink_to("0.png")
    assert read_all(GIVEN) == {"train/cat/0.png": b"1", "train/cat/1.png": b"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="a file that opens and cannot be read is Linux's")
def test_a_file_that_cannot_be_read_is_named() -> None:
    write_folder(GIVEN, {"train/cat/0.png": b"1"})
    Path("given/train/cat/1.png").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"Input/output error: 'given/train/cat/1\.png'"):
        read_all(GIVEN)


@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_instead_of_read_forever(make: Callable[[Path], None]) -> None:
    make(GIVEN)
    assert refusal().endswith(" is a pipe or a device, which may never end; pass a folder or an archive")
    GIVEN.unlink()
    write_folder(GIVEN, {"a/0.png": b"0"})
    make(GIVEN / "a/1.png")
    assert refusal().endswith("given: a/1.png is a pipe or a device, which may never end; remove it")


def test_a_link_to_a_folder_is_refused_rather_than_left_out() -> None:
    write_folder(GIVEN, {"train/cat/0.png": b"1", "more/1.png": b"2"})
    Path("given/train/cat/more").symlink_to("../../more")
    assert "train/cat/more is a link to a folder" in refusal()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "train/../../evil.png",
        "/etc/evil.png",
        "..\\evil.png",
        "C:/evil.png",
        "C:\\evil.png",
        "C:evil/0.png",
    ],
)
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_name_outside_the_archive_is_refused_before_anything_is_read(
    write: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    write(GIVEN, {"train/cat/0.png": b"1", name: b"evil"})
    with pytest.raises(DataError, match="is a path outside of the archive; nothing was read"):
        list_files(GIVEN)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "0.png"])
def test_a_link_in_a_tar_is_refused(kind: bytes, target: str) -> None:
    with tarfile.open(GIVEN, "w") as archive:
        link = tarfile.TarInfo("train/cat/1.png")
        link.type, link.linkname = kind, target
        archive.addfile(link)
    assert f"'train/cat/1.png' is a link (to '{target}'); pack plain files" in refusal()


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_device_in_a_tar_is_refused_rather_than_left_out(kind: bytes) -> None:
    with tarfile.open(GIVEN, "w") as archive:
        device = tarfile.TarInfo("train/cat/1.png")
        device.type = kind
        archive.addfile(device)
    assert "'train/cat/1.png' is neither a file nor a folder; pack plain files" in refusal()


def test_a_link_in_a_zip_is_refused() -> None:
    with zipfile.ZipFile(GIVEN, "w") as archive:
        link = zipfile.ZipInfo("train/cat/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "'train/cat/1.png' is a link; pack plain files" in refusal()


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_a_file_that_is_packed_twice_is_refused(write: Callable[[Path, dict[str, bytes]], Path]) -> None:
    with warnings.catch_warnings(action="ignore"):  # zipfile's, of the name
        write(GIVEN, {"train/cat/0.png": b"old", "train/cat/1.png": b"1", "./train/cat/0.png": b"new"})
    assert "holds train/cat/0.png twice" in refusal()


def patch_zip_headers(at_local: int, at_central: int, value: int) -> None:
    """Change a byte of the header of the only file, where it stands and in the directory at the end."""
    data = bytearray(write_zip(GIVEN, {"train/cat/ü.png": b"1"}).read_bytes())
    data[data.index(b"PK\x03\x04") + at_local] = value
    data[data.index(b"PK\x01\x02") + at_central] = value
    GIVEN.write_bytes(data)


def test_folders_of_a_zip_may_end_in_a_backslash_as_in_those_of_powershell_5() -> None:
    write_zip(GIVEN, {"train\\": b"", "train\\cat\\": b"", "train\\cat\\0.png": b"1", "train\\dog\\": b""})
    listing = list_files(GIVEN)
    assert (listing.files, listing.folders) == (["train/cat/0.png"], ["train", "train/cat", "train/dog"])
    assert read_all(GIVEN) == {"train/cat/0.png": b"1"}


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "café"), ("gbk", "猫"), ("cp866", "пёс"), ("cp850", "Käfer"), ("shift_jis", "表")],
)
def test_a_name_in_a_zip_that_does_not_state_its_encoding_is_refused_with_how_it_may_read(
    encoding: str, name: str
) -> None:
    raw = f"train\\{name}\\0.png".encode(encoding)
    write_zip_of_raw_names(GIVEN, {b"train\\dog\\0.png": b"1", raw: b"2"})
    message = refusal()
    assert f"the entry {raw!r} does not say in which encoding its name is; set data.encoding to the one" in message
    assert f"{encoding} ({name!r})" in message
    assert list_files(GIVEN, encoding).files == sorted(["train/dog/0.png", f"train/{name}/0.png"])
    assert dict(read_files(GIVEN, [f"train/{name}/0.png"], encoding)) == {f"train/{name}/0.png": b"2"}


def test_a_name_that_the_given_encoding_cannot_be_is_reported() -> None:
    write_zip_of_raw_names(GIVEN, {"train/Käfer/0.png".encode("cp850"): b"1"})
    with pytest.raises(DataError) as caught:
        list_files(GIVEN, "utf-8")
    assert r"the name b'train/K\x84fer/0.png' is not data.encoding=utf-8 (invalid start byte at byte 7); set it to" in (
        str(caught.value)
    )


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_whose_encoding_the_archive_states_is_not_read_in_the_given_one(kind: str) -> None:
    if kind == "tar":
        with tarfile.open(GIVEN, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo("train/猫/0.png"))
    else:
        write_zip(GIVEN, {"train/猫/0.png": b""})
    assert list_files(GIVEN, "cp866").files == ["train/猫/0.png"]


def test_a_tar_that_does_not_state_the_encoding_of_its_names_is_read_in_the_given_one() -> None:
    with tarfile.open(GIVEN, "w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        archive.addfile(tarfile.TarInfo("train/猫/0.png"))
        archive.addfile(tarfile.TarInfo("train/狗/0.png"))
    assert list_files(GIVEN, "gbk").files == sorted(["train/猫/0.png", "train/狗/0.png"])
    with pytest.raises(DataError, match=r"is not data\.encoding=utf-8"):
        list_files(GIVEN, "utf-8")


def test_an_encrypted_zip_is_refused() -> None:
    patch_zip_headers(6, 8, 1)
    assert "is encrypted; pack it without a password" in refusal()


def test_a_zip_with_a_compression_that_python_lacks_is_refused() -> None:
    patch_zip_headers(8, 10, 9)  # Deflate64, which Windows uses for large files
    assert "compression method is not supported" in refusal()


def test_a_zip_with_a_name_that_is_not_the_utf8_it_says_is_refused() -> None:
    patch_zip_headers(40, 56, 0xFF)  # the first byte of ü
    assert (
        r"the name b'train/cat/\xff\xbc.png' is not the UTF-8 that it is said to be (invalid start byte at byte 10)"
        in (refusal())
    )


def test_a_file_without_a_name_in_a_zip_is_left_out() -> None:
    patch_zip_headers(30, 46, 0)
    assert read_all(GIVEN) == {}


@pytest.mark.parametrize("kind", ARCHIVE_WRITERS)
@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.8])
def test_a_truncated_archive_is_refused(kind: str, kept: float) -> None:
    data = ARCHIVE_WRITERS[kind](GIVEN, image_files(8, 4)).read_bytes()
    GIVEN.write_bytes(data[: int(len(data) * kept) + 1])
    assert "cannot be read as a .tar, .tar.gz, .tar.xz or .zip archive (" in refusal()


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_archive_cut_off_at_any_byte_is_refused(kind: str) -> None:
    data = COMPRESSED[kind](GIVEN, {f"train/cat/{i}.png": b"abc" for i in range(3)}).read_bytes()
    for length in range(len(data)):
        GIVEN.write_bytes(data[:length])
        refusal()


def test_a_tar_cut_off_at_any_byte_is_refused_or_has_lost_nothing() -> None:
    files = {f"train/cat/{i}.png": b"abc" for i in range(3)}
    data = write_tar(GIVEN, files).read_bytes()
    refused = 0
    for length in range(0, len(data), 30):
        GIVEN.write_bytes(data[:length])
        try:
            assert read_all(GIVEN) == files
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz"])
def test_a_checksum_that_does_not_fit_is_found(kind: str) -> None:
    data = bytearray(COMPRESSED[kind](GIVEN, {"train/cat/0.png": b"abc"}).read_bytes())
    data[-8] ^= 1  # of gzip, the first byte of the CRC; of xz, one of the CRC of the index
    GIVEN.write_bytes(data)
    assert "cannot be read as" in refusal()


def test_a_tar_whose_first_name_begins_as_a_compressed_file_is_none() -> None:
    write_tar(GIVEN, {"BZhang/0.png": b"1"})
    assert read_all(GIVEN) == {"BZhang/0.png": b"1"}


@pytest.mark.parametrize("damage", ["cut before it", "cut in it", "overwritten"])
def test_a_tar_is_not_taken_to_end_at_a_header_that_is_missing_or_damaged(damage: str) -> None:
    write_tar(GIVEN, image_files(2, 2))
    with tarfile.open(GIVEN) as archive:
        header = archive.getmembers()[5].offset
    data = GIVEN.read_bytes()
    GIVEN.write_bytes(
        {
            "cut before it": data[:header],
            "cut in it": data[: header + 200],
            "overwritten": data[:header] + b"x" * 512 + data[header + 512 :],
        }[damage]
    )
    assert f"header at byte {header}" in refusal() or f"checksum at byte {header}" in refusal()


@pytest.mark.parametrize("kind", ["zip", "zip.bz2", "zip.xz", "tar.xz"])
@pytest.mark.parametrize("at", [45, 150])  # where the compressed bytes of a zip begin, and farther on
def test_damaged_bytes_are_found(kind: str, at: int) -> None:
    writers = ARCHIVE_WRITERS | {
        "zip.bz2": lambda path, files: write_zip(path, files, zipfile.ZIP_BZIP2),
        "zip.xz": lambda path, files: write_zip(path, files, zipfile.ZIP_LZMA),
    }
    data = bytearray(writers[kind](GIVEN, {"train/cat/0.txt": b" ".join(b"%d" % i for i in range(1000))}).read_bytes())
    data[at : at + 10] = b"\xff" * 10
    GIVEN.write_bytes(data)
    assert "cannot be read as" in refusal()


@pytest.mark.parametrize("content", [b"", b"no archive", b"no archive" * 1000, b"PK\x05\x06", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    GIVEN.write_bytes(content)
    assert "cannot be read as a .tar, .tar.gz, .tar.xz or .zip archive (" in refusal()


def header_of(size: int, pax: bool) -> bytes:
    """Return the start of a tar whose only file says that it has so many bytes."""
    member = tarfile.TarInfo("cat/0.png")
    if pax:
        member.pax_headers = {"size": str(size)}
        return member.tobuf(tarfile.PAX_FORMAT)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("pax", [False, True])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_that_says_its_file_has_exabytes_is_no_endless_loop(pack: Callable[[bytes], bytes], pax: bool) -> None:
    GIVEN.write_bytes(pack(header_of(1 << 62, pax) + bytes(20_000)))
    with pytest.raises(DataError, match="it ends in the middle of a file"):
        list_files(GIVEN)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_more_than_four_bytes_a_pixel_is_refused_before_it_is_read(kind: str) -> None:
    root = WRITERS[kind](GIVEN, {"cat/0.png": bytes(4_000_000), "cat/1.png": bytes(4_000_001)})
    assert dict(read_files(root, ["cat/0.png"], None, 1)) == {"cat/0.png": bytes(4_000_000)}
    with pytest.raises(DataError) as caught:
        list(read_files(root, ["cat/1.png"], None, 1))
    assert str(caught.value) == (
        f"{root.resolve()}: cat/1.png has 4,000,001 bytes, and data.max_megapixels=1 allows 4 MB in a file, 4 bytes a "
        "pixel; raise it, or remove the file"
    )


@pytest.mark.parametrize(
    "compression",
    [
        zipfile.ZIP_DEFLATED,
        pytest.param(zipfile.ZIP_BZIP2, marks=pytest.mark.slow),
        pytest.param(zipfile.ZIP_LZMA, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stated", [100, 3 << 30])
def test_a_zip_that_expands_ten_thousandfold_takes_no_memory(compression: int, stated: int) -> None:
    with zipfile.ZipFile(GIVEN, "w", compression) as archive, archive.open("cat/0.png", "w") as file:
        for _ in range(400):
            file.write(bytes(1 << 20))
    packed = GIVEN.read_bytes().replace((400 << 20).to_bytes(4, "little"), stated.to_bytes(4, "little"))
    GIVEN.write_bytes(packed)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from pathlib import Path\n"
        "from ptqflow.core.errors import DataError\n"
        "from ptqflow.fetch.archives import read_files\n"
        "try: list(read_files(Path('given'), ['cat/0.png']))\n"
        "except DataError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert ("Bad CRC-32" if stated == 100 else "has 3,221,225,472 bytes") in result.stdout


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(ptqflow.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
