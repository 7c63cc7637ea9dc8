"""Accuracy and loss of logits; NumPy, which takes torch's CPU tensors as well."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptqflow.core.figures import DIGITS
from ptqflow.data.batching import in_blocks


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


def evaluate(logits: ArrayLike, labels: NDArray[np.int64]) -> Evaluation:
    """Return accuracy and loss of logits (N, classes) for labels (N,); of equal logits the first class ranks higher."""
    values = np.asarray(logits)
    ranks = in_blocks(_rank_labels, values, labels)
    return Evaluation(
        top1=float((ranks < 1).mean()),
        top5=float((ranks < 5).mean()) if values.shape[1] >= 5 else None,
        loss=float(in_blocks(_losses, values, labels).mean()),
    )


def predictions(logits: ArrayLike) -> NDArray[np.int64]:
    """Return the class with the largest logit of each image, (N,), the first of equal ones."""
    found: NDArray[np.int64] = np.asarray(logits).argmax(axis=1)  # torch.argmax does not promise the first
    return found


def _rank_labels(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many classes rank before the true one, (N,)."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    ranks: NDArray[np.int64] = np.count_nonzero((logits > true) | ((logits == true) & is_before), axis=1)
    return ranks


def _losses(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-entropy of each image in nats, (N,)."""
    from scipy.special import logsumexp  # 0.15 s, which stages without losses need not wait for

    exact = logits.astype(np.float64)
    losses: NDArray[np.float64] = logsumexp(exact, axis=1) - np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    return losses
