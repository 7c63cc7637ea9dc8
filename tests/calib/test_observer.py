from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization import MinMaxObserver

from ptqflow.calib.histogram import Histogram, histogram_of
from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.core.errors import ModelError

every = settings(max_examples=150, deadline=None)

batch = st.builds(
    lambda scale, shares: torch.tensor(shares, dtype=torch.float32) * scale,
    st.sampled_from([1e-30, 1e-3, 1.0, -1.0, 1e4, 1e30]),
    st.lists(st.floats(0, 1, width=32) | st.floats(-1, 1, width=32), max_size=30),
)
batches = st.lists(batch, min_size=1, max_size=6)


def observe(seen: Iterable[Tensor]) -> TensorStatistics | None:
    observer = StatisticsObserver()
    for values in seen:
        observer(values)
    return observer.statistics


def plain(values: Tensor) -> Histogram:
    return histogram_of(values, values.min().item(), values.max().item())


def equal(one: Histogram, other: Histogram) -> bool:
    return (one.exponent, one.first, one.counts.tolist()) == (other.exponent, other.first, other.counts.tolist())


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every
@given(batches)
def test_the_statistics_are_those_of_all_values_at_once_and_empty_batches_leave_no_trace(seen: list[Tensor]) -> None:
    statistics = observe(seen)
    filled = [values for values in seen if values.numel()]

    if not filled:
        assert statistics is None
        return
    assert statistics is not None
    assert statistics.minima.tolist() == [values.min().item() for values in filled]
    assert statistics.maxima.tolist() == [values.max().item() for values in filled]
    assert statistics.minima.dtype == statistics.maxima.dtype == np.float32
    assert equal(statistics.histogram, plain(torch.cat(filled)))
    assert statistics.count == sum(values.numel() for values in filled)


@every
@given(batches)
def test_minimum_and_maximum_are_those_of_torch(seen: list[Tensor]) -> None:
    statistics, reference = observe(seen), MinMaxObserver()
    for values in seen:
        reference(values)

    if statistics is not None:
        assert statistics.minimum == reference.min_val.item()
        assert statistics.maximum == reference.max_val.item()


@every
@given(batches, st.data())
def test_the_histogram_does_not_depend_on_the_batches(seen: list[Tensor], data: st.DataObject) -> None:
    values = torch.cat(seen)
    if not len(values):
        return
    shuffled = values[torch.tensor(data.draw(st.permutations(range(len(values)))))]
    size = data.draw(st.integers(1, len(values)))

    statistics, again = observe(seen), observe(shuffled.split(size))
    assert statistics is not None
    assert again is not None
    assert equal(statistics.histogram, again.histogram)
    assert (statistics.minimum, statistics.maximum) == (again.minimum, again.maximum)


@pytest.mark.parametrize("shape", [(0,), (0, 3, 4, 4), (2, 0, 5)])
def test_an_observer_that_saw_nothing_but_empty_batches_has_no_statistics(shape: tuple[int, ...]) -> None:
    observer, empty = StatisticsObserver(), torch.zeros(shape)

    assert observer(empty) is empty
    assert observer.statistics is None


def test_layouts_and_strides_do_not_matter() -> None:
    values = randn(4, 6, 5, 3)
    expected = observe([values.flatten()])
    assert expected is not None

    for same in (
        values,
        values.contiguous(memory_format=torch.channels_last),
        values.permute(1, 0, 3, 2),
        values.repeat_interleave(2, dim=2)[:, :, ::2],
        values.reshape(4, 6, 15),
        values.requires_grad_(),
    ):
        statistics = observe([same])
        assert statistics is not None
        assert equal(statistics.histogram, expected.histogram)
        assert (statistics.minimum, statistics.maximum) == (expected.minimum, expected.maximum)


def test_the_values_pass_unchanged() -> None:
    values = randn(2, 3)
    before = values.clone()

    assert StatisticsObserver()(values) is values
    assert torch.equal(values, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batch", [0, 1])
def test_what_is_not_finite_is_refused_by_the_name_of_its_source(value: float, batch: int) -> None:
    seen = [randn(3, 4), randn(3, 4, seed=1)]
    seen[batch][1, 2] = value
    observer = StatisticsObserver()
    observer.source = "layer1.0.conv1"
    for values in seen[:batch]:
        observer(values)

    with pytest.raises(ModelError, match=r"^calibration: layer1\.0\.conv1 returns NaN or infinity") as refusal:
        observer(seen[batch])
    assert "\n" not in str(refusal.value)
    assert (observer.statistics is None) == (batch == 0)


def test_the_largest_float32_is_finite() -> None:
    largest = torch.finfo(torch.float32).max
    statistics = observe([torch.tensor([largest, -largest, 0.0])])

    assert statistics is not None
    assert (statistics.minimum, statistics.maximum, statistics.count) == (-largest, largest, 3)


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 4, 3), (6, 4, 3, 2), (6, 2, 3, 2, 2)])
def test_the_extremes_of_each_image_are_those_of_torch(shape: tuple[int, ...]) -> None:
    values = randn(*shape)
    observer = StatisticsObserver()
    observer.batch_size = 2
    for seen in values.split(4):  # two batches go through the network together, then one
        observer(seen)

    statistics = observer.statistics
    assert statistics is not None
    expected = [torch.aminmax(image) for image in values]
    assert statistics.image_minima.tolist() == [extremes.min.item() for extremes in expected]
    assert statistics.image_maxima.tolist() == [extremes.max.item() for extremes in expected]
    assert statistics.image_minima.dtype == statistics.image_maxima.dtype == np.float32
    batches = [torch.aminmax(batch) for batch in values.split(2)]
    assert statistics.minima.tolist() == [extremes.min.item() for extremes in batches]
    assert statistics.maxima.tolist() == [extremes.max.item() for extremes in batches]


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda values: values.contiguous(memory_format=torch.channels_last),
        lambda values: values.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda values: values.repeat_interleave(2, dim=2)[:, :, ::2],
    ],
    ids=["channels last", "permuted", "strided"],
)
def test_the_extremes_of_images_do_not_depend_on_the_layout(laid_out: Callable[[Tensor], Tensor]) -> None:
    values, found = randn(6, 4, 3, 5), []
    for same in (values, laid_out(values)):
        observer = StatisticsObserver()
        observer.batch_size = 3
        observer(same)
        assert observer.statistics is not None
        found.append((observer.statistics.image_minima.tolist(), observer.statistics.image_maxima.tolist()))

    assert found[0] == found[1]


def test_where_images_are_not_the_first_dimension_each_pass_counts_as_one() -> None:
    statistics = observe(values := [randn(3, 4), randn(2, 4, seed=1)])

    assert statistics is not None
    assert statistics.image_minima.tolist() == statistics.minima.tolist() == [seen.min().item() for seen in values]
    assert statistics.image_maxima.tolist() == statistics.maxima.tolist() == [seen.max().item() for seen in values]


def test_a_batch_more_and_an_image_more_cost_two_float32_each_and_nothing_else() -> None:
    def size(batches: int) -> int:
        observer = StatisticsObserver()
        observer.batch_size = 5
        for seed in range(batches):
            observer(randn(5, 100, seed=seed).clamp(-2, 2))
        seen = observer.statistics
        assert seen is not None
        extremes = (seen.minima, seen.maxima, seen.image_minima, seen.image_maxima)
        return sum(array.nbytes for array in extremes) + seen.histogram.counts.nbytes

    assert size(60) - size(10) == 50 * (1 + 5) * 2 * 4
