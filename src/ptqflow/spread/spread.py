"""How much of the accuracy is the luck of the calibration draw, and how many images are enough."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

from torch import nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import draw_images, input_batches
from ptqflow.calib.statistics import Statistics
from ptqflow.data.dataset import Dataset
from ptqflow.models.fp32 import ModelCard


def collect_sizes(
    model: nn.Module, card: ModelCard, dataset: Dataset, seed: int, sizes: Sequence[int], batch_size: int
) -> dict[int, Statistics]:
    """Return the statistics of the first batches of one draw, for each of `sizes`.

    A smaller size is the beginning of a larger one, so each batch goes through the network once and what was seen of it
    is merged into all sizes that hold it.
    """
    ordered = sorted(sizes)
    draw = draw_images(dataset, ordered[-1], batch_size, seed)
    pieces = []
    for start, stop in pairwise([0, *ordered]):
        rows = draw.rows[start:stop]
        batches = input_batches(dataset.train, rows, card.normalization)
        pieces.append(collect_statistics(observe(model, card.input_shape), batches, rows))
    return {size: reduce(Statistics.merged, pieces[: i + 1]) for i, size in enumerate(ordered)}


def summarize(scores: dict[int, list[float]], batch_size: int) -> list[dict[str, Any]]:
    """Return a row for each size: images, mean, standard deviation (n - 1), minimum and maximum of the scores of INT8.

    Args:
        scores: size in batches → top-1 on val of each draw, or agreement with FP32 without labels, as a fraction.
        batch_size: images a batch.
    """
    return [
        {
            "images": size * batch_size,
            "mean": round(mean(of_draws), 6),
            "std": round(stdev(of_draws), 6),
            "min": min(of_draws),
            "max": max(of_draws),
        }
        for size, of_draws in sorted(scores.items())
    ]
