"""Extremes and histograms of channels, against NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.calib.channel_statistics import BINS, ChannelStatistics, channel_statistics_of

CHANNELS = 5


def values(images: int, seed: int = 0) -> Tensor:
    """Channels of other widths each, one of zeros, one positive, one with a subnormal range."""
    widths = torch.tensor([1.0, 300.0, 0.0, 1e-3, 1e-42])
    drawn = torch.randn(images, 7, CHANNELS, generator=torch.Generator().manual_seed(seed)) * widths
    drawn[..., 3] = drawn[..., 3].abs() + 1
    return drawn


def equal(one: ChannelStatistics, other: ChannelStatistics) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def histogram_of(channel: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    """Compare the counts of a channel with those of NumPy over the edges that its extremes determine."""
    span = max(channel.max(), 0) - min(channel.min(), 0)
    width = 2.0 ** next(
        e
        for e in range(-149, 128)
        if np.floor(max(channel.max(), 0) / 2.0**e) - np.floor(min(channel.min(), 0) / 2.0**e) < BINS
    )
    first = np.floor(channel.min() / width)
    expected = np.bincount((np.floor(channel / width) - first).astype(int), minlength=BINS)
    assert np.array_equal(counts, expected)
    assert span == 0 or span / width > BINS / 2 - 2


def test_extremes_and_counts_are_those_of_numpy() -> None:
    seen = values(6)

    found = channel_statistics_of(seen, -1, 2)

    assert np.array_equal(found.image_minima, seen.amin(1).numpy())
    assert np.array_equal(found.image_maxima, seen.amax(1).numpy())
    assert np.array_equal(found.magnitudes, seen.abs().amax((0, 1)).numpy())
    for channel in range(CHANNELS):
        histogram_of(seen[..., channel].double().flatten().numpy(), found.counts[channel])


def test_channels_may_be_any_dimension() -> None:
    seen = values(6).reshape(6, 7, 1, CHANNELS)
    first = seen.permute(0, 3, 1, 2)

    assert equal(channel_statistics_of(first, -3, 2), channel_statistics_of(seen, -1, 2))
    memory = first.contiguous(memory_format=torch.channels_last)
    assert equal(channel_statistics_of(memory, -3, 2), channel_statistics_of(seen, -1, 2))


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 2, 2), (5, 1)])
def test_merging_is_exact_for_any_split(sizes: tuple[int, ...]) -> None:
    seen = values(6)
    seen[3] *= 100

    parts = [channel_statistics_of(part, -1, 1) for part in seen.split(list(sizes))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)

    assert equal(merged, channel_statistics_of(seen, -1, 1))


def test_values_of_all_images_together_are_one_row() -> None:
    seen = values(6)

    found = channel_statistics_of(seen, -1, None)

    assert found.image_minima.shape == (1, CHANNELS)
    assert np.array_equal(found.image_maxima[0], seen.amax((0, 1)).numpy())


def test_division_returns_the_extremes_and_nearly_the_histogram_of_the_divided_values() -> None:
    seen = torch.randn(64, 200, CHANNELS, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 30, 2, 0.1, 5])
    scales = np.array([0.5, 7, 3, 0.25, 1], np.float32)
    divided = seen / torch.from_numpy(scales)

    minima, maxima, histogram = channel_statistics_of(seen, -1, 1).divided(scales)

    assert np.array_equal(minima, divided.amin((1, 2)).numpy())
    assert np.array_equal(maxima, divided.amax((1, 2)).numpy())
    assert histogram.counts.sum() == seen.numel()
    assert histogram.edges[0] <= minima.min() < histogram.edges[-1]
    shares = np.cumsum(histogram.counts) / seen.numel()
    exact = np.searchsorted(np.sort(divided.flatten().numpy()), histogram.edges[1:]) / seen.numel()
    assert np.abs(shares - exact).max() < 0.01


def test_division_of_zeros_alone_returns_zeros() -> None:
    minima, maxima, histogram = channel_statistics_of(torch.zeros(2, 3, 4), -1, 1).divided(np.ones(4, np.float32))

    assert not minima.any()
    assert not maxima.any()
    assert histogram.counts.tolist() == [24]
