"""How near an INT8 network is to FP32 on calibration images, without labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptqflow.core.normalization import Normalization
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Split
from ptqflow.data.fidelity import image_sqnr_db
from ptqflow.data.preprocessing import to_input

_PIXELS = 1 << 20  # of the images that are compared, if those are more than 32
_FEWEST, _MOST = 32, 128  # such images
_KEPT_PIXELS = 1 << 18  # of images that go through the network together, whose values may all be kept
_EXACT_DB = 100.0  # that stands for no difference
_DEVIATIONS = 2.0  # standard errors of a gain that is more than chance


@dataclass(frozen=True)
class Score:
    """How near logits are to those of FP32."""

    images_db: Tensor
    """float64 (N,): SQNR of each image in decibels, at most 100."""
    together_db: float
    """Of all images, in which those with large logits count most."""

    @property
    def db(self) -> float:
        """Half the mean of the images' own, half that of all together."""
        return (float(self.images_db.mean()) + self.together_db) / 2

    def gain(self, before: "Score") -> float:
        """Return what this has more than another score of the same images."""
        return self.db - before.db

    def is_better(self, before: "Score") -> bool:
        """Return whether the gain is more than chance."""
        return self.gain(before) > by_chance_db(self.images_db, before.images_db)


@dataclass(frozen=True)
class Images:
    """Calibration images with FP32's logits."""

    inputs: Tensor
    """float32 (N, C, H, W), normalized, channels last."""
    exact: Tensor
    """float32 (N, classes)."""
    together: int
    """How many go through a network at a time."""

    def first(self, count: int) -> "Images":
        """Return the first ones, at most so many."""
        return Images(self.inputs[:count], self.exact[:count], self.together)

    def score(self, network: Callable[[Tensor], Tensor]) -> Score:
        """Return how near a network, which maps images to logits, is to FP32."""
        return self.compare(in_parts(network, self.inputs, self.together))

    def compare(self, logits: Tensor) -> Score:
        """Return how near logits of these images, (N, classes), are to FP32's."""
        pooled = sqnr_db(logits.reshape(1, -1), self.exact.reshape(1, -1))
        return Score(sqnr_db(logits, self.exact), float(pooled))


def draw_images(
    model: nn.Module, normalization: Normalization, train: Split, rows: NDArray[np.int64]
) -> tuple[Images, Images | None]:
    """Return the images that decide, 32 to 128, fewer where they are large, and as many others; None if none are left.

    Args:
        model: FP32.
        normalization: of its input.
        train: the split that the calibration images are from.
        rows: of the calibration images, in order.
    """
    flat = rows.ravel()
    count = min(max(_FEWEST, images_together(train.size, _PIXELS)), _MOST)
    others = read_images(model, normalization, train, flat[count:][:count]) if len(flat) > count else None
    return read_images(model, normalization, train, flat[:count]), others


def read_images(model: nn.Module, normalization: Normalization, train: Split, rows: NDArray[np.int64]) -> Images:
    """Return some images, of the rows (N,) of a split, with the logits of the FP32 `model`."""
    together = min(images_together(train.size, _KEPT_PIXELS), len(rows))
    inputs = to_input(torch.from_numpy(train.read(rows)), normalization)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    return Images(inputs, in_parts(model, inputs, together), together)


def by_chance_db(found: Tensor, before: Tensor) -> float:
    """Return what a mean gain of images, (N,) decibels, may be by chance: two standard errors; 0 for one image."""
    count = len(found)
    return _DEVIATIONS * float((found - before).std()) / math.sqrt(count) if count > 1 else 0.0


def in_parts(network: Callable[[Tensor], Tensor], images: Tensor, together: int) -> Tensor:
    """Return the logits of a network in inference mode, of so many images at a time."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in images.split(together)])


def sqnr_db(logits: Tensor, exact: Tensor) -> Tensor:
    """Return the SQNR of each image in decibels, float64 (N,), 100 at most."""
    return torch.from_numpy(image_sqnr_db(logits, exact)).clamp(max=_EXACT_DB)
