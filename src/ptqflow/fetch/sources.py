"""The data sets that `data.name` selects."""

import errno
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptqflow.core.artifacts import naming
from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.data.batching import images_together
from ptqflow.fetch.decoding import fit_arrays
from ptqflow.fetch.image_folder import load_image_folder
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Pool, Rows, Source, stratified_subset

_PIXELS = 1 << 18  # of images in memory at a time
# The usual constants of its recipes.
_CIFAR10_NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

# What torchvision raises if a download fails or files are not what it expects.
_UNUSABLE = (RuntimeError, OSError, HTTPException, ValueError, LookupError, TypeError, AssertionError)


def load_source(params: DataParams, given: Path | None, scratch: Path) -> Source:
    """Load the data set; `given` is what `data.path` points to, `scratch` is a folder for files that the source maps.

    Raises:
        DataError: the download fails, or what `data.path` holds is not this data set.
    """
    if params.name == "digits":
        return _digits(params, scratch / "images")
    if params.name == "image_folder":
        if given is None:
            raise DataError("data.path is null: data.name=image_folder needs a folder or an archive")
        return load_image_folder(given, params, scratch / "images")
    return _torchvision_source(params, given, scratch)


def _digits(params: DataParams, spool: Path) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Source(
        origin="sklearn.datasets.load_digits",
        classes=tuple(str(name) for name in digits.target_names),
        train=_spooled(images, digits.target, np.arange(len(images)), params, spool),
        test=None,
        horizontal_flip=False,
    )


def _spooled(images: NDArray[np.uint8], labels: ArrayLike, rows: Rows, params: DataParams, spool: Path) -> Pool:
    """Resize the images at `rows` into the file `spool`, because they may not fit in memory; the pool maps it."""
    size, channels = params.image_size, params.channels
    with naming(spool), spool.open("wb") as out:
        step = images_together(size, _PIXELS)
        for start in range(0, len(rows), step):
            out.write(fit_arrays(images[rows[start : start + step]], size, channels).tobytes())
    pixels = np.memmap(spool, np.uint8, "r", shape=(len(rows), size, size, channels))
    return Pool(pixels, np.arange(len(rows), dtype=np.int64), np.asarray(labels, dtype=np.int64)[rows])


def _drawn(data: Any, params: DataParams, spool: Path, least: int) -> Pool:
    labels = np.asarray(data.targets, dtype=np.int64)
    rows = stratified_subset(labels, params.limit, params.seed, data.classes, least)
    return _spooled(np.asarray(data.data), data.targets, rows, params, spool)


def _torchvision_source(params: DataParams, given: Path | None, scratch: Path) -> Source:
    from ptqflow.core.torchvision_shim import ensure_torchvision_imports

    ensure_torchvision_imports()
    from torchvision import datasets

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}[
        params.name
    ]
    train, test = _open_found(params, given, dataset, scratch) if given else _open_downloaded(params, dataset)
    return Source(
        origin=f"torchvision.datasets.{dataset.__name__}",
        classes=tuple(train.classes),
        train=_drawn(train, params, scratch / "train", 2),
        test=_drawn(test, params, scratch / "test", 0),
        horizontal_flip=True,
        normalization=_CIFAR10_NORMALIZATION if params.name == "cifar10" and params.channels == 3 else None,
    )


def _open_downloaded(params: DataParams, dataset: Any) -> tuple[Any, Any]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptqflow" / "datasets"
    try:
        return dataset(cache, train=True, download=True), dataset(cache, train=False, download=True)
    except _UNUSABLE as error:
        _raise_if_disk_is_full(error, cache)
        raise DataError(
            f"data.name={params.name}: the download to {cache} failed ({error}); remove a damaged copy there, or get "
            "the data set by other means and set data.path to the folder that holds it"
        ) from None


def _open_found(params: DataParams, given: Path, dataset: Any, scratch: Path) -> tuple[Any, Any]:
    """Open what torchvision has unpacked in `given`, or its CIFAR archive; checksums are verified before reading."""
    from torchvision.datasets.utils import check_integrity

    root, unpack = given, False
    archive = given / getattr(dataset, "filename", "") if given.is_dir() else given
    if hasattr(dataset, "tgz_md5") and check_integrity(archive, dataset.tgz_md5):
        root, unpack = scratch / "torchvision", True
        root.mkdir()
        (root / dataset.filename).symlink_to(archive.resolve())
    try:
        return dataset(root, train=True, download=unpack), dataset(root, train=False, download=unpack)
    except _UNUSABLE as error:
        _raise_if_disk_is_full(error, root)
        raise DataError(
            f"data.path: {given.resolve()} does not hold {params.name} as torchvision stores it ({_reason(error)}); "
            f"expected {_expected(dataset)}"
        ) from None


def _reason(error: Exception) -> str:
    return str(error).removesuffix(" You can use download=True to download it")  # an argument of torchvision's


def _expected(dataset: Any) -> str:
    if hasattr(dataset, "tgz_md5"):
        return f"{dataset.filename} as published, or a folder that holds it or, unpacked, {dataset.base_folder}/"
    files = ", ".join(Path(name).stem for name, _ in dataset.resources)
    return f"a folder that holds {dataset.__name__}/raw/ with {files}"


def _raise_if_disk_is_full(error: Exception, folder: Path) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        with naming(folder):
            raise error
