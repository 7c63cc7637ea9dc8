"""The luck of the draw: one pass serves all sizes, and the summary is NumPy's mean and standard deviation."""

import miniature
import numpy as np
import pytest
import torch

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import draw_images, input_batches
from ptqflow.core.errors import DataError
from ptqflow.data.dataset import SPLITS, Dataset, DatasetCard
from ptqflow.spread.spread import collect_sizes, summarize

BATCH = 4


def dataset() -> Dataset:
    card = DatasetCard(
        name="digits",
        source="random pixels",
        classes=miniature.CLASSES,
        preprocessing=miniature.PREPROCESSING,
        sizes=dict.fromkeys(SPLITS, 40),
        mean=miniature.NORMALIZATION.mean,
        std=miniature.NORMALIZATION.std,
        normalization=miniature.NORMALIZATION,
        horizontal_flip=True,
        skipped=0,
        sha256=dict.fromkeys(SPLITS, ""),
    )
    return Dataset(card, *(miniature.split(40, seed) for seed in range(3)))


@pytest.mark.parametrize("function", ["residual"], indirect=True)
@pytest.mark.parametrize("sizes", [(1, 2, 5), (5, 1, 2), (3,)])
def test_each_size_has_the_statistics_of_that_many_batches_of_the_draw(
    network: torch.nn.Module, sizes: tuple[int, ...]
) -> None:
    images = dataset()
    collected = collect_sizes(network, miniature.card(), images, seed=7, sizes=sizes, batch_size=BATCH)

    assert sorted(collected) == sorted(sizes)
    for size, statistics in collected.items():
        rows = draw_images(images, size, BATCH, 7).rows
        batches = input_batches(images.train, rows, miniature.NORMALIZATION)
        alone = collect_statistics(observe(network, miniature.INPUT_SHAPE), batches, rows)
        assert np.array_equal(statistics.rows, rows)
        for name, seen in statistics.tensors.items():
            expected = alone.tensors[name]
            assert seen is not None
            assert expected is not None
            assert np.array_equal(seen.minima, expected.minima)
            assert np.array_equal(seen.maxima, expected.maxima)
            assert np.array_equal(seen.histogram.counts, expected.histogram.counts)


@pytest.mark.parametrize("function", ["residual"], indirect=True)
def test_a_size_larger_than_the_training_split_is_refused(network: torch.nn.Module) -> None:
    with pytest.raises(DataError, match=r"are 44 images, there are 40: calib.batches may be at most 10"):
        collect_sizes(network, miniature.card(), dataset(), seed=0, sizes=(2, 11), batch_size=BATCH)


def test_the_summary_is_numpys_mean_and_standard_deviation_by_size() -> None:
    scores = {8: [0.5, 0.75, 0.7], 1: [0.25, 0.5, 0.6]}

    assert summarize(scores, 32) == [
        {
            "images": 32 * size,
            "mean": round(float(np.mean(scores[size])), 6),
            "std": round(float(np.std(scores[size], ddof=1)), 6),
            "min": min(scores[size]),
            "max": max(scores[size]),
        }
        for size in (1, 8)
    ]
