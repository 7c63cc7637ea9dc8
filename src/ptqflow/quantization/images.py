"""The images that a caller passes, of any kind, as a source without labels."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.decoding import UnreadableImageError, fit_arrays, fit_image
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.photos import FEWEST, load_photos
from ptqflow.fetch.splitting import Decode, Pool, Rows, Source

Picture = Image.Image | NDArray[np.uint8]
Images = str | PathLike[str] | NDArray[np.uint8] | Sequence[Picture] | Iterable[Any]
"""A folder or an archive; uint8 arrays (N, H, W, C) or a sequence of (H, W, C); PIL images; or batches of a
`torch.utils.data.DataLoader`, with or without labels."""

_LEVELS_AWAY = 0.02  # that a pixel may be from a whole number, for float32's rounding of its normalization


def open_images(
    images: Images, params: DataParams, preprocessing: Preprocessing, normalization: Normalization, limit: int
) -> Source:
    """Return the images as a source.

    Args:
        images: of any kind.
        params: the section `data`, for a folder or an archive.
        preprocessing: of files, arrays and PIL images; tensors of a loader must have its size.
        normalization: that was applied to the float tensors of a loader; it is undone.
        limit: images, at most, that are taken of a loader.

    Raises:
        DataError: they are of another kind or too few, or the floats of a loader are no normalized 8-bit pixels.
    """
    if isinstance(images, str | PathLike):
        return load_photos(Path(images), params, preprocessing)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        pixels = fit_arrays(_require_bytes(images, "the array"), preprocessing)
    elif isinstance(images, Sequence):
        fitted = [_fit(image, preprocessing, f"image {number}") for number, image in enumerate(images)]
        pixels = np.stack(fitted) if fitted else np.empty((0, *preprocessing.size, preprocessing.channels), np.uint8)
    else:
        assert isinstance(images, Iterable)
        pixels = _read_loader(images, preprocessing, normalization, limit)
    if len(pixels) < FEWEST:
        raise DataError(f"there are {len(pixels)} images, and {FEWEST} are the fewest that can be divided; pass more")
    return Source(
        origin=f"images passed as {type(images).__name__}",
        classes=(),
        train=Pool(np.arange(len(pixels)), np.full(len(pixels), -1)),
        test=None,
        horizontal_flip=True,
        read=partial(_read, pixels),
    )


def require_images(images: object) -> None:
    """Require images of a kind that `open_images` takes.

    Raises:
        DataError: they are of another kind.
    """
    is_single = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim != 4)
    if is_single or not isinstance(images, str | PathLike | Iterable):
        raise DataError(
            f"images is a {type(images).__name__}: pass a folder, uint8 arrays (N, H, W, C), a list of PIL images or "
            "of arrays, or a DataLoader"
        )


def first_size(images: Images) -> tuple[int, int] | None:
    """Return height and width of the images if all that can be looked at without reading files have the same one."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return images.shape[1], images.shape[2]
    if isinstance(images, Sequence) and not isinstance(images, str):
        sizes = {image.size[::-1] if isinstance(image, Image.Image) else np.shape(image)[:2] for image in images}
        return sizes.pop() if len(sizes) == 1 else None
    if isinstance(images, Iterable) and not isinstance(images, str | PathLike | np.ndarray):
        batch = _tensor(next(iter(images), None))
        return (batch.shape[2], batch.shape[3]) if batch.ndim == 4 else None
    return None


def _read(pixels: NDArray[np.uint8], rows: Rows) -> Iterator[tuple[Rows, Decode]]:
    step = 64
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        yield some, partial(pixels.__getitem__, some)


def _fit(image: Any, preprocessing: Preprocessing, name: str) -> NDArray[np.uint8]:
    if not isinstance(image, Image.Image):
        image = _require_bytes(np.asarray(image)[np.newaxis], name)[0]
    try:
        if isinstance(image, Image.Image):
            fitted = fit_image(image, preprocessing)
        else:
            fitted = fit_arrays(image[np.newaxis], preprocessing)[0]
    except (UnreadableImageError, OSError) as error:
        raise DataError(f"{name}: {error}") from None
    return fitted


def _require_bytes(images: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape[1:]:
        raise DataError(
            f"{name} is {images.dtype} of shape {images.shape}: pass uint8 pixels with the channels last, 1, 3 or 4 of "
            "them"
        )
    return images


def _read_loader(
    loader: Iterable[Any], preprocessing: Preprocessing, normalization: Normalization, limit: int
) -> NDArray[np.uint8]:
    found, count = [], 0
    for batch in loader:
        pixels = _to_pixels(_tensor(batch), preprocessing, normalization)
        found.append(pixels)
        count += len(pixels)
        if count >= limit:
            break
    empty = np.empty((0, *preprocessing.size, preprocessing.channels), np.uint8)
    return np.concatenate([empty, *found])[:limit]


def _tensor(batch: Any) -> Tensor:
    """Return the images of a batch, which may have labels after them or be a mapping."""
    if isinstance(batch, dict):
        batch = next((batch[key] for key in ("pixel_values", "image", "images", "img") if key in batch), None)
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.ndim != 4:
        found = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
        raise DataError(f"the loader yields {found}: let it yield tensors (N, C, H, W), or tuples that start with one")
    return batch


def _to_pixels(batch: Tensor, preprocessing: Preprocessing, normalization: Normalization) -> NDArray[np.uint8]:
    """Undo the normalization of a batch (N, C, H, W)."""
    if tuple(batch.shape[1:]) != preprocessing.input_shape:
        raise DataError(
            f"the loader yields images of shape {tuple(batch.shape[1:])}, and the network is quantized for "
            f"{preprocessing.input_shape}; set data.image_size and data.channels to those of the loader"
        )
    batch = batch.detach().cpu()
    if batch.dtype == torch.uint8:
        return batch.permute(0, 2, 3, 1).contiguous().numpy()
    mean, std = (
        torch.tensor(part, dtype=torch.float64).view(1, -1, 1, 1) for part in (normalization.mean, normalization.std)
    )
    levels = (batch.double() * std + mean) * normalization.divisor
    rounded = levels.round()
    if (
        not levels.isfinite().all()
        or (levels - rounded).abs().max() > _LEVELS_AWAY
        or rounded.min() < 0
        or rounded.max() > 255
    ):
        raise DataError(
            f"the loader yields floats from {batch.min():.3g} to {batch.max():.3g}, which are no 8-bit pixels after "
            f"mean {list(normalization.mean)} and std {list(normalization.std)}; set model.mean and model.std to what "
            "the loader normalizes with, or let it yield uint8"
        )
    return rounded.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
