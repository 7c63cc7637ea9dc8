"""Small image folders and archives, made on the spot."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from ptqflow.core.preprocessing import ColorOrder, Preprocessing
from ptqflow.data.dataset import DatasetCard
from ptqflow.fetch import fetch as fetch_module
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source
from ptqflow.fetch.writing import save_card, write_images


def data_params(**changes: object) -> DataParams:
    """Return valid params for the user's own images, 16x16."""
    values: dict[str, object] = {
        "name": "image_folder",
        "path": "given",
        "encoding": None,
        "image_size": 16,
        "channels": 3,
        "limit": None,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "seed": 0,
        "on_bad_image": "error",
    }
    return DataParams.model_validate(values | changes)


def fitted(size: int | tuple[int, int], channels: int = 3) -> Preprocessing:
    """Return the default preprocessing to a square or to height and width."""
    colors: dict[int, ColorOrder] = {1: "L", 3: "RGB", 4: "RGBA"}
    return Preprocessing.default((size, size) if isinstance(size, int) else size, colors[channels])


def fetch(params: DataParams, given: Path | None, directory: Path) -> DatasetCard:
    """Fetch with the preprocessing that the params state."""
    return fetch_module.fetch(params, params.preprocessing(), given, directory)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    if kind == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """Return a PNG of random colours."""
    return encode(Image.fromarray(random_pixels(*size, 3, seed=seed)))


def image_files(train: int = 10, test: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> dict[str, bytes]:
    """Return name → bytes of `train/<class>/…` and `test/<class>/…`, every image another."""
    names = [f"{s}/{c}/{i}.png" for s, n in (("train", train), ("test", test)) for c in classes for i in range(n)]
    return {name: png(seed) for seed, name in enumerate(names)}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Write the files below a folder; a name that ends in `/` is an empty folder."""
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar archive; `mode` as of tarfile.open."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_zip_of_raw_names(path: Path, files: dict[bytes, bytes]) -> Path:
    """Write a zip whose names are bytes without the flag that says UTF-8, as Windows does."""
    placeholders = {name: (b"~%d" % i).ljust(len(name), b"~") for i, name in enumerate(files)}
    write_zip(path, {placeholders[name].decode(): data for name, data in files.items()})
    packed = path.read_bytes()
    for name, placeholder in placeholders.items():
        packed = packed.replace(placeholder, name)
    path.write_bytes(packed)
    return path


def write_fashion_mnist(folder: Path, count: int = 20) -> Path:
    """Write noise as torchvision stores Fashion-MNIST, the same in train and test, ten classes in turn; return raw/."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + random_pixels(count, 28, 28).tobytes())
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header[:3] + b"\1" + header[4:8] + labels)
    return raw


ARCHIVE_WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "tar": write_tar,
    "tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
    "zip": write_zip,
}
WRITERS = {"folder": write_folder, **ARCHIVE_WRITERS}


def array_source(
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    **changes: object,
) -> tuple[Source, dict[str, Pool]]:
    """Return a source of the images (N, size, size, channels) and labels (N,) of each split, and the splits."""
    images = np.concatenate([pixels for pixels, _ in splits.values()])
    pools, first = {}, 0
    for split, (pixels, labels) in splits.items():
        pools[split] = Pool(np.arange(first, first + len(pixels)), np.asarray(labels, np.int64))
        first += len(pixels)

    def read(rows: Rows) -> Iterator[tuple[Rows, Decode]]:
        for start in range(0, len(rows), 50):
            some = rows[start : start + 50]
            yield some, partial(images.__getitem__, some)

    described: dict[str, object] = {"origin": "made for a test", "horizontal_flip": True, "read": read}
    source = Source(classes=classes, train=pools["train"], test=pools.get("test"), **(described | changes))  # type: ignore[arg-type]
    return source, pools


def save_dataset(
    directory: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]], name: str = "noise", **changes: object
) -> DatasetCard:
    """Write the images and labels of each split as `fetch` does; `changes` as of `array_source`."""
    directory.mkdir(parents=True, exist_ok=True)
    source, pools = array_source(splits, **changes)  # type: ignore[arg-type]
    _, height, width, channels = splits["train"][0].shape
    written = write_images(directory, source, pools, (channels, height, width))
    return save_card(directory, name, source, pools, written, fitted((height, width), channels))


def read_pool(source: Source, pool: Pool | None) -> np.ndarray:
    """Return the pixels of the images of a pool, in its order."""
    assert pool is not None
    pixels: dict[int, np.ndarray] = {}
    for rows, decode in source.read(pool.rows):
        decoded = decode()
        pixels |= zip(rows.tolist(), [] if decoded is None else decoded, strict=False)
    return np.stack([pixels[row] for row in pool.rows.tolist() if row in pixels])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
