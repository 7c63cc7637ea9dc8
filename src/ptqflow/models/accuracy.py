"""Logits of a network on a split, and their accuracy and loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ptqflow.core.errors import DataError
from ptqflow.core.figures import DIGITS
from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input


@dataclass(frozen=True)
class Evaluation:
    """Accuracy, as fractions of the images, and loss of one network on one split."""

    top1: float
    top5: float | None
    """None where there are fewer than 5 classes."""
    loss: float
    """Mean cross-entropy in nats."""

    def as_metrics(self) -> dict[str, float]:
        """Return the figures that exist, rounded to 6 decimals."""
        figures = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        return {name: round(figure, DIGITS) for name, figure in figures.items() if figure is not None}


def compute_logits(
    model: nn.Module,
    split: Split,
    normalization: Normalization,
    batch_size: int,
    label: str,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return the logits of a network on a split in its stored order; each rank computes a share of the batches.

    A batch has `batch_size` images, or fewer if they are large, as `images_per_pass` returns.

    Returns:
        float64 (N, classes) on the CPU.

    Raises:
        DataError: a logit is not finite; the error names `label` and the first such image.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.eval()

    def run(batch: Split) -> Tensor:
        images = torch.from_numpy(np.array(batch.images)).to(device)
        batch.release()
        logits: Tensor = model(to_input(images, normalization))
        return logits.cpu().double()

    step = images_per_pass(split.images.shape[1], batch_size)
    starts = range(0, len(split), step)
    own = starts[ranks.part(len(starts))]
    with torch.inference_mode():
        bar = tqdm(own, desc=label, unit="batch", leave=False, disable=True if ranks.rank else None)
        batches = (run(split[start : start + step]) for start in bar)
        logits = _concatenate(batches, len(split[own[0] : own[-1] + step])) if own else run(split[:1])[:0]
        result = torch.cat(ranks.gather(logits))
    finite = result.isfinite().all(dim=1)
    if not finite.all():
        raise DataError(f"{label}: the output for image {int(finite.int().argmin())} is not finite")
    return result


def _concatenate(tensors: Iterator[Tensor], count: int) -> Tensor:
    """Concatenate tensors of `count` rows in all without holding them at once, which would fragment the memory."""
    first = next(tensors)
    rows, filled = first.new_empty(count, *first.shape[1:]), 0
    for tensor in chain([first], tensors):
        rows[filled : filled + len(tensor)] = tensor
        filled += len(tensor)
    return rows


def evaluate(logits: Tensor, labels: NDArray[np.int64]) -> Evaluation:
    """Return accuracy and loss of logits (N, classes) for labels (N,); of equal logits the first class ranks higher."""
    ranks = _rank_labels(logits.numpy(), labels)
    return Evaluation(
        top1=float((ranks < 1).mean()),
        top5=float((ranks < 5).mean()) if logits.shape[1] >= 5 else None,
        loss=F.cross_entropy(logits, torch.from_numpy(np.array(labels))).item(),
    )


def _rank_labels(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many classes rank before the true one, (N,)."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    ranks: NDArray[np.int64] = np.count_nonzero((logits > true) | ((logits == true) & is_before), axis=1)
    return ranks


def predictions(logits: Tensor) -> NDArray[np.int64]:
    """Return the class with the largest logit of each image, (N,), the first of equal ones."""
    found: NDArray[np.int64] = logits.numpy().argmax(axis=1)  # torch.argmax does not promise the first
    return found
