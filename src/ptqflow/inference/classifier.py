"""An exported model as a function from images to class probabilities."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.errors import DataError
from ptqflow.data.batching import images_per_pass
from ptqflow.data.normalization import normalize
from ptqflow.fetch.decoding import UnreadableImageError, fit_arrays, fit_image
from ptqflow.runtime.manifest import Manifest, read_manifest
from ptqflow.runtime.runtimes import Runtime, open_first, open_network

if TYPE_CHECKING:
    from ptqflow.runtime.runtimes import Network

Picture = Image.Image | NDArray[np.uint8]
"""A PIL image, or an array (H, W, C)."""

_MOST_IMAGES = 64


@dataclass(frozen=True)
class Classifier:
    """An exported model, as `ptqflow.load` returns it; shapes and types are documented there."""

    manifest: Manifest
    runtime: Runtime
    network: "Network"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of the probabilities."""
        return self.manifest.classes

    def __call__(self, images: Picture | Sequence[Picture]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of images, of the kinds documented at `ptqflow.load`.

        Raises:
            DataError: they are of another kind, or there are none.
        """
        return self.classify_pixels(to_pixels(images, self.manifest))

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of preprocessed images (N, height, width, channels), N > 0."""
        return softmax(compute_logits(self.network, self.manifest, pixels))


def load_classifier(
    directory: str | PathLike[str], runtime: Runtime | None = None, note: Callable[[str], None] = warnings.warn
) -> Classifier:
    """Load an exported model, as documented at `ptqflow.load`; `note` is passed to `open_first`."""
    directory = Path(directory)
    manifest = read_manifest(directory)
    if runtime is None:
        runtime, network = open_first(directory, manifest, note)
    else:
        network = open_network(directory, manifest, runtime)
    return Classifier(manifest, runtime, network)


def batch_size(manifest: Manifest) -> int:
    """Return how many images run at a time, so that memory is bounded; no result depends on it."""
    return images_per_pass(manifest.preprocessing.size, _MOST_IMAGES)


def compute_logits(network: "Network", manifest: Manifest, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits (N, classes) of preprocessed images (N, height, width, channels), N > 0."""
    step = batch_size(manifest)
    batches = (pixels[start : start + step] for start in range(0, len(pixels), step))
    return np.concatenate([network(normalize(batch, manifest.input)) for batch in batches])


def to_pixels(images: Picture | Sequence[Picture], manifest: Manifest) -> NDArray[np.uint8]:
    """Return images of any kind that a classifier takes, preprocessed, as an array (N, height, width, channels).

    Raises:
        DataError: they are of another kind, or there are none.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        checked = _checked(images, manifest, "the array", 4) if len(images) else images
        pixels = _fit_batch(checked, manifest, "the array") if len(images) else images
    else:
        if isinstance(images, Image.Image | np.ndarray) or not isinstance(images, Iterable):
            images = [images]
        fitted = [_fit(image, manifest, f"image {i}") for i, image in enumerate(images)]
        pixels = np.stack(fitted) if fitted else np.empty(0, np.uint8)
    if not len(pixels):
        raise DataError("a batch of 0 images: pass 1 or more")
    return pixels


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the probabilities of logits (N, classes), computed in float64; NaN where a logit is not finite."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)


def _fit(image: Any, manifest: Manifest, name: str) -> NDArray[np.uint8]:
    if not isinstance(image, Image.Image):
        fitted: NDArray[np.uint8] = _fit_batch(_checked(image, manifest, name, 3)[np.newaxis], manifest, name)[0]
        return fitted
    try:
        return fit_image(image, manifest.preprocessing)
    except (UnreadableImageError, OSError) as error:  # a PIL image is read from its file when it is first needed
        raise DataError(f"{name}: {error}") from None


def _fit_batch(images: NDArray[np.uint8], manifest: Manifest, name: str) -> NDArray[np.uint8]:
    try:
        return fit_arrays(images, manifest.preprocessing)
    except UnreadableImageError as error:
        raise DataError(f"{name}: {error}") from None


def _checked(images: Any, manifest: Manifest, name: str, ndim: int) -> NDArray[np.uint8]:
    found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
    channels, mode = manifest.preprocessing.channels, manifest.preprocessing.mode
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != ndim
        or images.shape[-1] != channels
        or 0 in images.shape
    ):
        raise DataError(
            f"{name} is {found}: pass uint8 {mode} arrays (N, H, W, {channels}) or (H, W, {channels}), PIL images, or "
            "a list of either"
        )
    return images
