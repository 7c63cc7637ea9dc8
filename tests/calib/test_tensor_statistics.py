"""Statistics of one tensor, merged and shared."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ptqflow.calib.histogram import Histogram
from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.tensor_statistics import TensorStatistics, share


def observe(seen: Iterable[Tensor]) -> TensorStatistics | None:
    observer = StatisticsObserver()
    for values in seen:
        observer(values)
    return observer.statistics


def equal(one: Histogram, other: Histogram) -> bool:
    return (one.exponent, one.first, one.counts.tolist()) == (other.exponent, other.first, other.counts.tolist())


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_merged_statistics_are_those_of_one_observer_that_sees_first_the_one_then_the_other() -> None:
    seen = [randn(100, seed=seed) * 10**seed for seed in range(5)]
    one, other, whole = observe(seen[:2]), observe(seen[2:]), observe(seen)
    assert one is not None
    assert other is not None
    assert whole is not None

    merged = one.merged(other)
    assert merged.minima.tolist() == whole.minima.tolist()
    assert merged.maxima.tolist() == whole.maxima.tolist()
    assert equal(merged.histogram, whole.histogram)
    assert (len(one.minima), one.count) == (2, 200), "it is left unchanged"


def observe_images(values: Tensor, batch: int) -> TensorStatistics:
    observer = StatisticsObserver()
    observer.batch_size = batch
    observer(values)
    assert observer.statistics is not None
    return observer.statistics


def test_the_extremes_of_images_are_merged_in_order() -> None:
    values = randn(12, 5)
    merged = observe_images(values[:8], 4).merged(observe_images(values[8:], 4))

    assert merged.image_minima.tolist() == values.amin(1).tolist()
    assert merged.image_maxima.tolist() == values.amax(1).tolist()
    assert len(merged.minima) == 3


def test_tensors_that_share_an_observer_have_the_extremes_of_each_image_together() -> None:
    tensors = [randn(12, 5, seed=seed) * (seed + 1) for seed in range(3)]
    shared = share([observe_images(values, 4) for values in tensors])

    together = torch.cat(tensors, 1)
    assert shared.image_minima.tolist() == together.amin(1).tolist()
    assert shared.image_maxima.tolist() == together.amax(1).tolist()


def test_tensors_of_different_numbers_of_images_that_share_an_observer_keep_the_extremes_of_each() -> None:
    one, other = observe_images(randn(8, 5), 4), observe_images(randn(4, 5, seed=1), 4)
    shared = share([one, other])

    assert shared.image_minima.tolist() == [*one.image_minima.tolist(), *other.image_minima.tolist()]
    assert shared.image_maxima.tolist() == [*one.image_maxima.tolist(), *other.image_maxima.tolist()]


def test_tensors_that_share_an_observer_take_turns_batch_by_batch() -> None:
    tensors = [[randn(20, seed=10 * tensor + number) * (tensor + 1) for number in range(3)] for tensor in range(3)]
    shared = observe(values for together in zip(*tensors, strict=True) for values in together)
    assert shared is not None

    apart = share([statistics for seen in tensors if (statistics := observe(seen))])
    assert apart.minima.tolist() == shared.minima.tolist()
    assert apart.maxima.tolist() == shared.maxima.tolist()
    assert equal(apart.histogram, shared.histogram)


def test_a_tensor_that_shares_with_none_keeps_its_statistics() -> None:
    statistics = observe([randn(20), randn(20, seed=1)])
    assert statistics is not None

    alone = share([statistics])
    assert alone.minima.tolist() == statistics.minima.tolist()
    assert alone.maxima.tolist() == statistics.maxima.tolist()
    assert equal(alone.histogram, statistics.histogram)
