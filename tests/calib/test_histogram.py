import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptqflow.calib import histogram
from ptqflow.calib.histogram import BINS, Histogram, histogram_of, smallest_exponent

LARGEST = float(np.float32(1e30))
every = settings(max_examples=200, deadline=None)


def float32(value: float) -> float:
    return float(np.float32(value))


anything = st.floats(-LARGEST, LARGEST, width=32)
any_magnitude = st.builds(
    lambda digits, exponent: float32(digits * 10.0**exponent),
    st.floats(1, 9) | st.floats(-9, -1),
    st.integers(-44, 29),  # from the subnormals on
)
one_magnitude = st.builds(
    lambda scale, shares: [float32(share * abs(scale)) for share in shares],
    any_magnitude,
    st.lists(st.floats(-1, 1), min_size=1, max_size=80),
)
values_of_tensors = (
    st.lists(anything, min_size=1, max_size=40)
    | st.lists(any_magnitude | st.sampled_from([0.0, -0.0]), min_size=1, max_size=40)
    | one_magnitude
    | one_magnitude.map(lambda values: [-abs(value) for value in values])
    | st.builds(lambda value, count: [value] * count, any_magnitude, st.integers(1, 40))
    | st.builds(lambda zero, count: [zero] * count, st.sampled_from([0.0, -0.0]), st.integers(1, 40))
)


def count(values: Tensor | list[float], exponent: int | None = None) -> Histogram:
    tensor = torch.as_tensor(values, dtype=torch.float32)
    return histogram_of(tensor, tensor.min().item(), tensor.max().item(), exponent)


def bin_of(value: float, exponent: int) -> int:
    return math.floor(Fraction(value) / Fraction(2) ** exponent)


def bins_to(lowest: float, highest: float, exponent: int) -> int:
    """How many bins reach from the lowest to the highest value and to zero."""
    return bin_of(max(highest, 0.0), exponent) - bin_of(min(lowest, 0.0), exponent) + 1


def parts_of(histogram: Histogram) -> tuple[int, int, list[int]]:
    return histogram.exponent, histogram.first, histogram.counts.tolist()


@every
@given(values_of_tensors)
def test_every_value_lies_in_the_bin_of_exact_arithmetic(values: list[float]) -> None:
    histogram = count(values)

    bins = [bin_of(value, histogram.exponent) for value in values]
    assert histogram.first == min(bins)
    assert histogram.counts.tolist() == [bins.count(number) for number in range(min(bins), max(bins) + 1)]
    assert histogram.counts.dtype == np.int64


@every
@given(values_of_tensors)
def test_the_bins_are_the_narrowest_that_are_few_enough(values: list[float]) -> None:
    exponent = count(values).exponent

    assert bins_to(min(values), max(values), exponent) <= BINS
    assert exponent == -149 or bins_to(min(values), max(values), exponent - 1) > BINS


@every
@given(values_of_tensors, st.data())
def test_order_and_parts_leave_no_trace_whatever_the_tree_in_which_they_are_merged(
    values: list[float], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values) - 1), max_size=8)) if len(values) > 1 else [])
    parts = [count(shuffled[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    while len(parts) > 1:
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        place = data.draw(st.integers(0, len(parts) - 1))
        parts[place] = one.merged(parts[place])

    assert parts_of(parts[0]) == parts_of(count(values))


def test_thousands_of_values_in_every_bin_merge_to_the_last_count() -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    whole = count(values)

    for parts in (2, 7, 1000):
        merged = count(values[:1])
        for part in values[1:].flip(0).chunk(parts):
            merged = merged.merged(count(part))
        assert parts_of(merged) == parts_of(whole)
    assert whole.counts.sum() == 50_000
    assert BINS / 4 < len(whole.counts) <= BINS


@pytest.mark.parametrize("zeros", [[0.0], [-0.0, 0.0, 0.0]])
@pytest.mark.parametrize("values", [[1e-30, 3e-30], [-0.5, 0.25], [float32(2.0**-149)], [1e30]])
def test_a_part_of_zeros_alone_costs_the_others_no_precision(zeros: list[float], values: list[float]) -> None:
    assert parts_of(count(zeros)) == (-149, 0, [len(zeros)])
    assert parts_of(count(zeros).merged(count(values))) == parts_of(count(zeros + values))
    assert parts_of(count(values).merged(count(zeros))) == parts_of(count(zeros + values))


@every
@given(values_of_tensors, st.integers(0, 400))
def test_widening_is_as_if_the_values_had_been_counted_in_wider_bins(values: list[float], doublings: int) -> None:
    histogram = count(values)
    exponent = histogram.exponent + doublings

    widened = histogram.widened(exponent)
    bins = [bin_of(value, exponent) for value in values]
    expected = [bins.count(number) for number in range(min(bins), max(bins) + 1)]
    assert parts_of(widened) == (exponent, min(bins), expected)
    assert parts_of(count(values, exponent)) == parts_of(widened)


@every
@given(values_of_tensors)
def test_edges_and_centers_are_exact(values: list[float]) -> None:
    histogram = count(values)

    bins = range(histogram.first, histogram.first + len(histogram.counts))
    assert histogram.edges.tolist() == [math.ldexp(number, histogram.exponent) for number in (*bins, bins[-1] + 1)]
    assert histogram.centers.tolist() == [math.ldexp(2 * number + 1, histogram.exponent - 1) for number in bins]


@pytest.mark.parametrize("exponent", [-149, -130, -127, -126, -1, 0, 1, 100])
def test_edges_belong_to_the_bin_above_them_at_every_width(exponent: int) -> None:
    """Around the widths at which the scaling goes from float64 to float32 and back."""
    width = 2.0**exponent
    edges = [number * width for number in (-3, -2, -1, 0, 1, 2, 5)]
    above, below = ([float(np.nextafter(np.float32(edge), np.float32(to))) for edge in edges] for to in (3e38, -3e38))

    for values in (edges, above, below):
        made = count(values, exponent)
        bins = [bin_of(value, exponent) for value in values]
        assert made.first == bins[0]
        assert {number: made.counts[number - made.first] for number in bins} == {
            number: bins.count(number) for number in bins
        }
        assert made.counts.sum() == len(values)


@pytest.mark.parametrize(
    ("lowest", "highest", "exponent"),
    [
        (0.0, 8191.0, 0),
        (0.0, 8192.0, 1),  # bins 0 to 8192 would be one too many
        (-1.0, 8191.0, 1),
        (-1.0, 8190.0, 0),
        (-8192.0, 0.0, 1),  # bin 0 holds the zero
        (-8192.0, -4096.0, 1),
        (-8191.0, -1.0, 0),
        (4096.0, 4097.0, 0),  # zero counts though no value is near it
        (0.0, 0.0, -149),
        (0.0, 2.0**-149, -149),
    ],
)
def test_the_width_by_hand(lowest: float, highest: float, exponent: int) -> None:
    assert smallest_exponent(lowest, highest) == exponent
    assert count([lowest]).merged(count([highest])).exponent == exponent


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_what_is_scaled_in_pieces_is_counted_once(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    expected = parts_of(count(values))
    monkeypatch.setattr(histogram, "_CHUNK", chunk)

    assert parts_of(count(values)) == expected
    assert parts_of(count(values * 2.0**-140)) == parts_of(count((values * 2.0**-140).flip(0)))


def test_the_memory_layout_does_not_matter_and_the_values_stay_unchanged() -> None:
    values = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    expected, before = parts_of(count(values.flatten())), values.clone()

    assert parts_of(count(values)) == expected
    assert parts_of(count(values.to(memory_format=torch.channels_last))) == expected
    assert parts_of(count(values.permute(3, 1, 0, 2))) == expected
    assert parts_of(count(values.repeat_interleave(3, dim=1)[:, ::3])) == expected
    assert torch.equal(values, before)


@pytest.mark.parametrize("value", [0.0, 1.0, 1000.0])
def test_a_bin_counts_beyond_what_float32_can(value: float) -> None:
    many = 2**24 + 3

    histogram = count(torch.tensor(value).expand(many))
    assert histogram.counts.tolist() == [many]
    assert histogram.merged(histogram).counts.tolist() == [2 * many]
