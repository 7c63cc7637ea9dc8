"""The data sets that `data.name` selects."""

import errno
import os
from collections.abc import Iterator, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptqflow.core.artifacts import naming
from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.batching import images_together
from ptqflow.fetch.decoding import fit_arrays
from ptqflow.fetch.hugging_face import load_hugging_face
from ptqflow.fetch.image_folder import load_image_folder
from ptqflow.fetch.image_list import load_image_list
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.photos import load_photos
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source

_PIXELS = 1 << 18  # of images in memory at a time
# The usual constants of its recipes.
_CIFAR10_NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

# What torchvision raises if a download fails or files are not what it expects.
_UNUSABLE = (RuntimeError, OSError, HTTPException, ValueError, LookupError, TypeError, AssertionError)


def load_source(params: DataParams, preprocessing: Preprocessing, given: Path | None, scratch: Path) -> Source:
    """Load the data set; `given` is what `data.path` points to, `scratch` is a folder for unpacked files.

    Raises:
        DataError: the download fails, or what `data.path` holds is not this data set.
    """
    if params.name == "digits":
        return _digits(preprocessing)
    if params.name == "image_folder":
        return load_image_folder(_given(params, given), params, preprocessing)
    if params.name == "image_list":
        return load_image_list(_given(params, given), params, preprocessing)
    if params.name == "hugging_face":
        return load_hugging_face(_given(params, given), params, preprocessing)
    if params.name == "photos":
        return load_photos(_given(params, given), params, preprocessing)
    return _torchvision_source(params, preprocessing, given, scratch)


def _given(params: DataParams, given: Path | None) -> Path:
    if given is None:
        raise DataError(f"data.path is null: data.name={params.name} needs a folder or an archive")
    return given


def _digits(preprocessing: Preprocessing) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Source(
        origin="sklearn.datasets.load_digits",
        classes=tuple(str(name) for name in digits.target_names),
        train=_pool(digits.target),
        test=None,
        horizontal_flip=False,
        read=partial(_read, [images], preprocessing),
    )


def _pool(labels: ArrayLike, first: int = 0) -> Pool:
    classes = np.asarray(labels, dtype=np.int64)
    return Pool(np.arange(first, first + len(classes)), classes)


def _read(
    arrays: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing, rows: Rows
) -> Iterator[tuple[Rows, Decode]]:
    """Yield images of arrays (N, H, W) or (N, H, W, C), which are numbered through, some at a time."""
    step, first = images_together(preprocessing.size, _PIXELS), 0
    for images in arrays:
        own = rows[(rows >= first) & (rows < first + len(images))]
        for start in range(0, len(own), step):
            some = own[start : start + step]
            yield some, partial(_fit, images, some - first, preprocessing)
        first += len(images)


def _fit(images: NDArray[np.uint8], rows: Rows, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return fit_arrays(images[rows], preprocessing)


def _torchvision_source(params: DataParams, preprocessing: Preprocessing, given: Path | None, scratch: Path) -> Source:
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
        train=_pool(train.targets),
        test=_pool(test.targets, len(train)),
        horizontal_flip=True,
        read=partial(_read, [np.asarray(part.data) for part in (train, test)], preprocessing),
        normalization=_CIFAR10_NORMALIZATION if params.name == "cifar10" and preprocessing.color == "RGB" else None,
    )


def _open_downloaded(params: DataParams, dataset: Any) -> tuple[Any, Any]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptqflow" / "datasets"
    try:
        return _open_both(dataset, cache, download=True)
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
        return _open_both(dataset, root, download=unpack)
    except _UNUSABLE as error:
        _raise_if_disk_is_full(error, root)
        raise DataError(
            f"data.path: {given.resolve()} does not hold {params.name} as torchvision stores it ({_reason(error)}); "
            f"expected {_expected(dataset)}"
        ) from None


def _open_both(dataset: Any, root: Path, download: bool) -> tuple[Any, Any]:
    """Open train and test, and check what torchvision does not: that each image has a label, which is a class."""
    both = dataset(root, train=True, download=download), dataset(root, train=False, download=download)
    for part in both:
        labels, classes = np.asarray(part.targets), len(part.classes)
        if not len(labels) == len(part.data) > 0:
            raise ValueError(f"{len(part.data):,} images and {len(labels):,} labels")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels {labels.min()} to {labels.max()} of {classes} classes")
    return both


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
