import warnings
from collections.abc import Callable
from itertools import product
from typing import get_args

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization import MinMaxObserver, MovingAverageMinMaxObserver

from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.convert import ranges
from ptqflow.convert.ranges import (
    Levels,
    Method,
    QParams,
    Range,
    choose_range,
    clipped_share,
    entropy_range,
    minmax_range,
    moving_average_range,
    mse_range,
    percentile_range,
    squared_error,
    to_qparams,
    typical_extremes,
)

METHODS: tuple[Method, ...] = get_args(Method)
LEVELS = [Levels(largest, symmetric) for largest, symmetric in product((255, 127), (False, True))]
EPS = torch.finfo(torch.float32).eps
LARGEST = float(np.float32(1e30))

every = settings(max_examples=150, deadline=None)
all_levels = pytest.mark.parametrize("levels", LEVELS, ids=str)
batches = st.builds(
    lambda scale, seen: [torch.tensor(values, dtype=torch.float32) * scale for values in seen],
    st.sampled_from([1e-30, 1e-8, 1e-3, 1.0, -1.0, 1e4, 1e30]),
    st.lists(
        st.lists(st.floats(-1, 1, width=32) | st.floats(0, 1, width=32), min_size=1, max_size=10),
        min_size=1,
        max_size=8,
    ),
)


def observe(*seen: Tensor) -> TensorStatistics:
    observer = StatisticsObserver()
    for values in seen:
        observer(values)
    assert observer.statistics is not None
    return observer.statistics


def randn(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def laplace(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    exponential = torch.empty(count).exponential_(generator=generator)
    return exponential * torch.randint(0, 2, (count,), generator=generator).mul(2).sub(1)


TENSORS: dict[str, Callable[[int], Tensor]] = {
    "relu": lambda count: randn(count).relu(),
    "gaussian": randn,
    "laplace with outliers": lambda count: torch.cat([laplace(count), torch.tensor([60.0, -35.0])]),
    "negative": lambda count: -randn(count).square() - 0.01,
    "shifted": lambda count: randn(count) + 2.5,
    "far from zero": lambda count: randn(count) + 50,
    "silu": lambda count: torch.nn.functional.silu(3 * randn(count)),
    "hardtanh": lambda count: (2 * randn(count)).clamp(-1, 1),
    "one spike": lambda count: torch.cat([randn(count), torch.tensor([1000.0])]),
}
all_tensors = pytest.mark.parametrize("name", TENSORS)


def torch_qparams(observer: MinMaxObserver, seen: list[Tensor]) -> tuple[float, int]:
    for values in seen:
        observer(values)
    scale, zero_point = observer.calculate_qparams()
    return scale.item(), int(zero_point.item())


def quantize_dequantize(values: Tensor, qparams: QParams) -> Tensor:
    """As torch does it."""
    return torch.fake_quantize_per_tensor_affine(values, qparams.scale, qparams.zero_point, 0, qparams.levels.largest)


def true_error(values: Tensor, qparams: QParams) -> float:
    return (quantize_dequantize(values, qparams) - values).double().square().sum().item()


@every
@given(batches)
@pytest.mark.parametrize("largest", [255, 127])
@pytest.mark.parametrize(
    ("choose", "observer"),
    [(minmax_range, MinMaxObserver), (moving_average_range, MovingAverageMinMaxObserver)],
)
def test_scale_and_zero_point_are_those_of_torch_bit_for_bit(
    choose: Callable[[TensorStatistics], Range], observer: type[MinMaxObserver], largest: int, seen: list[Tensor]
) -> None:
    qparams = to_qparams(choose(observe(*seen)), Levels(largest, symmetric=False))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates reduce_range, which its own defaults set
        reference = observer(dtype=torch.quint8, reduce_range=largest == 127)
    assert (qparams.scale, qparams.zero_point) == torch_qparams(reference, seen)


@every
@given(batches)
@pytest.mark.parametrize(
    ("choose", "observer"),
    [(minmax_range, MinMaxObserver), (moving_average_range, MovingAverageMinMaxObserver)],
)
def test_symmetric_scale_and_zero_point_are_those_of_torch_bit_for_bit(
    choose: Callable[[TensorStatistics], Range], observer: type[MinMaxObserver], seen: list[Tensor]
) -> None:
    chosen = choose(observe(*seen))

    reference = observer(dtype=torch.quint8, qscheme=torch.per_tensor_symmetric)
    qparams = to_qparams(chosen, Levels(255, symmetric=True))
    assert (qparams.scale, qparams.zero_point) == torch_qparams(reference, seen)
    assert qparams.zero_point == 128

    # With 7 bits torch returns 63 here, and 128, which is no 7-bit level, for reduce_range=True.
    reference = observer(dtype=torch.quint8, qscheme=torch.per_tensor_symmetric, quant_min=0, quant_max=127)
    qparams = to_qparams(chosen, Levels(127, symmetric=True))
    assert qparams.scale == torch_qparams(reference, seen)[0]
    assert qparams.zero_point == 64


@every
@given(st.floats(-LARGEST, LARGEST, width=32), st.floats(-LARGEST, LARGEST, width=32), st.sampled_from(LEVELS))
def test_zero_has_a_level_and_the_ends_lose_no_more_than_a_step(one: float, other: float, levels: Levels) -> None:
    chosen = Range(min(one, other), max(one, other))

    qparams = to_qparams(chosen, levels)
    assert 0 <= qparams.zero_point <= levels.largest
    assert qparams.scale >= EPS
    assert qparams.scale == float(np.float32(qparams.scale))
    assert qparams.range.low <= 0 <= qparams.range.high
    assert qparams.range.low <= chosen.low + 0.51 * qparams.scale
    assert qparams.range.high >= chosen.high - 0.51 * qparams.scale
    assert quantize_dequantize(torch.zeros(1), qparams).item() == 0
    ends = quantize_dequantize(torch.tensor([-torch.inf, torch.inf]).clamp(-3e38, 3e38), qparams)
    assert ends.tolist() == pytest.approx([qparams.range.low, qparams.range.high])


@pytest.mark.parametrize(
    ("chosen", "levels", "scale", "zero_point"),
    [
        (Range(0.0, 255.0), Levels(255, symmetric=False), 1.0, 0),
        (Range(-127.0, 128.0), Levels(255, symmetric=False), 1.0, 127),
        (Range(-127.0, 0.0), Levels(127, symmetric=False), 1.0, 127),
        (Range(10.0, 127.0), Levels(127, symmetric=False), 1.0, 0),  # widened to zero
        (Range(-255.0, -10.0), Levels(255, symmetric=False), 1.0, 255),
        (Range(-10.0, 127.5), Levels(255, symmetric=True), 1.0, 128),
        (Range(-63.5, 10.0), Levels(127, symmetric=True), 1.0, 64),
        (Range(0.0, 0.0), Levels(255, symmetric=False), EPS, 0),
    ],
)
def test_scale_and_zero_point_by_hand(chosen: Range, levels: Levels, scale: float, zero_point: int) -> None:
    assert to_qparams(chosen, levels) == QParams(scale, zero_point, levels)


@every
@given(batches, st.floats(50, 100, exclude_min=True))
def test_percentiles_are_those_of_numpy_to_the_width_of_a_bin(seen: list[Tensor], percentile: float) -> None:
    statistics, values = observe(*seen), torch.cat(seen).double().numpy()
    width = 2.0**statistics.histogram.exponent

    chosen = percentile_range(statistics, percentile)
    for end, share in ((chosen.low, 100 - percentile), (chosen.high, percentile)):
        below, above = (np.percentile(values, share, method=method) for method in ("lower", "higher"))
        assert below - width <= end <= above + width
    assert values.min() <= chosen.low
    assert chosen.high <= values.max()


@all_tensors
@pytest.mark.parametrize("percentile", [50.1, 90.0, 99.0, 99.9, 99.99])
def test_percentiles_of_many_values_are_those_of_numpy(name: str, percentile: float) -> None:
    values = TENSORS[name](20_000)
    statistics = observe(values)

    chosen = percentile_range(statistics, percentile)
    expected = np.percentile(values.double().numpy(), [100 - percentile, percentile])
    neighbours = [
        np.percentile(values, [100 - percentile, percentile], method=method) for method in ("lower", "higher")
    ]
    slack = np.ptp(neighbours, axis=0) + 2.0**statistics.histogram.exponent  # numpy interpolates between the two
    assert (np.abs(expected - [chosen.low, chosen.high]) <= slack).all()


@all_tensors
def test_the_percentile_100_is_the_smallest_and_the_largest_value(name: str) -> None:
    statistics = observe(TENSORS[name](5000))

    assert percentile_range(statistics, 100.0) == minmax_range(statistics)


@all_tensors
@all_levels
def test_no_range_of_a_dense_grid_has_less_squared_error_than_mse(name: str, levels: Levels) -> None:
    values = TENSORS[name](5000)

    chosen = to_qparams(mse_range(observe(values), levels), levels)
    assert true_error(values, chosen) <= 1.01 * min(true_error(values, qparams) for qparams in grid(values, levels))


def grid(values: Tensor, levels: Levels) -> list[QParams]:
    """Ends from nearly zero to beyond the values, in steps of 1/1000 where one moves and of 1/70 where both do."""
    lowest, highest = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    fine, coarse = np.linspace(0.002, 1.02, 1019), np.linspace(0.02, 1.02, 71)
    if levels.symmetric:
        scales = np.float32(fine * max(-lowest, highest) / (levels.largest / 2))
        return [QParams(float(scale), (levels.largest + 1) // 2, levels) for scale in scales]
    both = lowest < 0 < highest
    ends = product(lowest * coarse, highest * coarse) if both else zip(lowest * fine, highest * fine, strict=True)
    scales_of = [(low, float(np.float32((high - low) / levels.largest))) for low, high in ends]
    return [QParams(scale, round(-low / scale), levels) for low, scale in scales_of]


@pytest.mark.parametrize("value", [3.7, -3.7, 1.0, 1e-4, -1e30, 0.0])
@all_levels
def test_mse_represents_a_constant_as_exactly_as_its_bin(value: float, levels: Levels) -> None:
    values = torch.full((100,), value)
    statistics = observe(values)

    chosen = to_qparams(mse_range(statistics, levels), levels)
    assert true_error(values, chosen) <= 100 * max(2.0**statistics.histogram.exponent, EPS / 2) ** 2


@pytest.mark.parametrize("levels", [Levels(255, symmetric=False), Levels(127, symmetric=False)], ids=str)
def test_mse_is_close_to_the_best_where_the_distribution_ends_at_once(levels: Levels) -> None:
    uniform = torch.rand(5000, generator=torch.Generator().manual_seed(0))

    for values in (uniform, -3 * uniform.square(), 2 * uniform - 1):
        chosen = to_qparams(mse_range(observe(values), levels), levels)
        assert true_error(values, chosen) <= 1.02 * min(true_error(values, one) for one in grid(values, levels))


@all_tensors
@all_levels
def test_the_squared_error_over_the_histogram_is_that_of_the_values(name: str, levels: Levels) -> None:
    values = TENSORS[name](20_000)
    statistics = observe(values)
    qparams = [to_qparams(Range(share * statistics.minimum, share * statistics.maximum), levels) for share in (0.5, 1)]

    errors = squared_error(statistics.histogram, qparams)
    slack = 0.15 if name == "hardtanh" else 0.02  # most of its values are an edge of their bin
    assert errors.tolist() == pytest.approx([true_error(values, one) for one in qparams], rel=slack)


@all_tensors
@all_levels
def test_the_squared_error_of_the_centers_is_that_of_torch(name: str, levels: Levels) -> None:
    statistics = observe(TENSORS[name](5000))
    histogram, qparams = statistics.histogram, to_qparams(Range(statistics.minimum / 2, statistics.maximum), levels)

    centers = torch.from_numpy(histogram.centers)
    errors = (quantize_dequantize(centers.float(), qparams) - centers).square()
    expected = (errors * torch.from_numpy(histogram.counts)).sum().item()
    assert squared_error(histogram, [qparams]).tolist() == pytest.approx([expected], rel=1e-4)


def test_squared_errors_far_beyond_float32_are_finite_and_exact() -> None:
    values = randn(5000)
    statistics, huge = observe(values), observe(values * 2.0**90)
    levels = LEVELS[0]
    qparams = to_qparams(Range(-1.0, 1.0), levels)
    scaled = QParams(qparams.scale * 2.0**90, qparams.zero_point, levels)

    assert squared_error(huge.histogram, [scaled]) == squared_error(statistics.histogram, [qparams]) * 2.0**180


@all_tensors
@all_levels
def test_the_clipped_share_is_that_of_the_values(name: str, levels: Levels) -> None:
    values = TENSORS[name](5000)
    statistics = observe(values)
    width = 2.0**statistics.histogram.exponent

    for share in (0.3, 0.9, 1.0):
        qparams = to_qparams(Range(share * statistics.minimum, share * statistics.maximum), levels)
        error = (quantize_dequantize(values, qparams) - values).abs().double()
        at_least, at_most = ((error > qparams.scale / 2 + shift).double().mean() for shift in (width, -width / 2))
        saturated = (values > qparams.range.high) | (values < qparams.range.low)
        at_most = min(at_most, saturated.double().mean()) + 1e-12
        assert at_least <= clipped_share(statistics.histogram, qparams) <= at_most
    assert clipped_share(statistics.histogram, to_qparams(Range(-2000.0, 2000.0), levels)) == 0


def test_the_clipped_share_by_hand() -> None:
    values = torch.tensor([0.0] * 6 + [3.0, 4.0, 5.0, 100.0])

    qparams = to_qparams(Range(0.0, 4.0), LEVELS[0])
    assert clipped_share(observe(values).histogram, qparams) == 0.2


def magnitudes_of(values: Tensor, bins: int) -> tuple[list[int], float]:
    """Counts of |x| in bins of the smallest power of two with which `bins` are enough, and that width."""
    exact = values.double().numpy()
    width = 2.0**-100
    while width < 2.0**-13 * np.abs(exact).max():  # nothing narrower is few enough
        width *= 2
    while True:  # a bin holds its lower edge, on the negative side the end that is farther from zero
        numbers = np.floor(exact / width).astype(int)
        folded = np.where(numbers < 0, -1 - numbers, numbers)
        if folded.max() < bins:
            return np.bincount(folded).tolist(), width
        width *= 2


def published_divergence(counts: list[int], threshold: int) -> float:
    """KL divergence between what is clipped at a threshold and the same in 128 levels (TensorRT, GTC 2017)."""
    reference = counts[:threshold]
    levels = [range(level * threshold // 128, (level + 1) * threshold // 128) for level in range(128)]
    quantized = [0.0] * threshold
    for level in levels:
        occupied = [number for number in level if counts[number] > 0]
        for number in occupied:
            quantized[number] = sum(counts[number] for number in level) / len(occupied)
    reference[-1] += sum(counts[threshold:])
    return float("inf") if not any(quantized) else float(scipy.stats.entropy(reference, quantized))


def published_threshold(counts: list[int]) -> int:
    divergences = {threshold: published_divergence(counts, threshold) for threshold in range(128, len(counts) + 1)}
    return min(divergences, key=divergences.__getitem__)


def as_many_zeros_as_neighbours(counts: list[int]) -> list[int]:
    """The only liberty that is taken: ReLU produces many zeros, which no scale changes."""
    return [min(counts[0], counts[1]), *counts[1:]]


@all_tensors
def test_entropy_is_the_published_procedure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_ENTROPY_BINS", 400)  # which the reference takes in plain Python
    monkeypatch.setattr(ranges, "_THRESHOLDS", 400)
    values = TENSORS[name](5000)
    statistics = observe(values)

    counts, width = magnitudes_of(values, 400)
    limit = published_threshold(as_many_zeros_as_neighbours(counts)) * width
    chosen = entropy_range(statistics)
    assert chosen == Range(max(statistics.minimum, -limit), min(statistics.maximum, limit))


@pytest.mark.parametrize("name", ["relu", "laplace with outliers"])
def test_the_thresholds_that_are_tried_are_enough_for_entropy(name: str) -> None:
    values = TENSORS[name](50_000)

    chosen = entropy_range(observe(values))
    counts, width = magnitudes_of(values, 2048)
    counts = as_many_zeros_as_neighbours(counts)
    tried = min(round(chosen.high / width), len(counts))
    best = min(published_divergence(counts, threshold) for threshold in range(128, len(counts) + 1, 3))
    assert published_divergence(counts, tried) <= 1.2 * best


def test_entropy_cuts_outliers_off_and_nothing_else() -> None:
    clean = entropy_range(observe(randn(100_000)))
    spoiled = entropy_range(observe(torch.cat([randn(100_000), torch.tensor([40.0])])))

    assert clean.high > 2.5
    assert clean.low < -2.5
    assert spoiled.high < 10


def test_entropy_takes_all_values_in_where_the_bins_are_no_more_than_the_levels() -> None:
    statistics = observe(torch.zeros(10))

    assert entropy_range(statistics) == minmax_range(statistics)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [0.0, -0.0, 0.0],
        [5.0],
        [-5.0],
        [7.5, 7.5, 7.5],
        [1e30, -1e30, 3.0],
        [1e30],
        [1e-30, -1e-30],
        [-1e-30],
        [2.0**-149, 0.0],
        [1e30, 1e-30, 0.0],
    ],
    ids=str,
)
def test_every_method_copes_with_every_extreme(method: Method, values: list[float]) -> None:
    statistics = observe(torch.tensor(values))

    for levels in LEVELS:
        chosen = choose_range(statistics, method, 99.99, levels)
        qparams = to_qparams(chosen, levels)
        assert np.isfinite([chosen.low, chosen.high, qparams.scale]).all()
        assert chosen.low <= chosen.high
        assert qparams.scale >= EPS
        assert 0 <= qparams.zero_point <= levels.largest
        if max(map(abs, values)) > 1:  # the largest keeps its place, whatever is lost of the smallest
            largest = torch.tensor([max(values, key=abs)])
            assert quantize_dequantize(largest, qparams).item() == pytest.approx(largest.item(), rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@all_tensors
def test_a_range_grows_with_the_values(method: Method, name: str) -> None:
    values = TENSORS[name](2000)
    statistics, huge = observe(values), observe(values * 2.0**80)

    for levels in LEVELS:
        chosen, grown = (choose_range(seen, method, 99.9, levels) for seen in (statistics, huge))
        assert (grown.low, grown.high) == pytest.approx((chosen.low * 2.0**80, chosen.high * 2.0**80), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@all_tensors
def test_no_method_reaches_beyond_the_values_but_mse_by_a_step(method: Method, name: str) -> None:
    statistics = observe(TENSORS[name](2000))

    for levels in LEVELS:
        chosen = choose_range(statistics, method, 99.9, levels)
        if method == "mse" and levels.symmetric:
            assert chosen.high == -chosen.low
            assert chosen.high <= 1.01 * max(-statistics.minimum, statistics.maximum)
        else:
            step = 1.01 * (chosen.high - chosen.low) / levels.largest if method == "mse" else 0
            assert min(statistics.minimum, 0) - step <= chosen.low
            assert chosen.low <= chosen.high <= max(statistics.maximum, 0) + step


def observe_images(values: Tensor, batch: int) -> TensorStatistics:
    """Observe images (N, values), a batch at a time."""
    observer = StatisticsObserver()
    observer.batch_size = batch
    for seen in values.split(batch):
        observer(seen)
    assert observer.statistics is not None
    return observer.statistics


@pytest.mark.parametrize(("count", "images"), [(64, 8), (96, 32), (50, 8), (33, 32), (32, 32), (200, 128), (7, 1)])
def test_typical_extremes_are_the_means_over_groups_of_images(count: int, images: int) -> None:
    values = laplace(count * 20).reshape(count, 20)
    found = typical_extremes(observe_images(values, count), images)

    groups = count // images
    longer = count % groups  # of the groups, in order, each has one image more
    lows, highs, start = [], [], 0
    for group in range(groups):
        end = start + count // groups + (group < longer)
        lows.append(values[start:end].numpy().min())
        highs.append(values[start:end].numpy().max())
        start = end
    assert start == count
    assert found == Range(float(np.float64(lows).mean()), float(np.float64(highs).mean()))


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_typical_extremes_do_not_depend_on_the_batches(batch: int) -> None:
    values = laplace(64 * 20).reshape(64, 20)

    assert typical_extremes(observe_images(values, batch), 8) == typical_extremes(observe_images(values, 64), 8)


def test_typical_extremes_do_not_widen_with_the_images_as_those_of_all_do() -> None:
    few, many = (observe_images(laplace(count * 20).reshape(count, 20), 16) for count in (64, 64 * 64))

    assert minmax_range(many).high > 1.3 * minmax_range(few).high
    for images in (8, 16, 32):
        one, other = typical_extremes(few, images), typical_extremes(many, images)
        assert (other.low, other.high) == pytest.approx((one.low, one.high), rel=0.15)
        assert minmax_range(many).low < other.low < other.high < minmax_range(many).high


@pytest.mark.parametrize("count", [1, 5, 15])
def test_fewer_images_than_two_groups_have_their_extremes(count: int) -> None:
    statistics = observe_images(laplace(count * 20).reshape(count, 20), count)

    assert typical_extremes(statistics, 8) == minmax_range(statistics)


def test_each_method_is_its_own() -> None:
    statistics = observe(*laplace(256 * 20).chunk(256))
    levels = Levels(127, symmetric=True)

    assert {method: choose_range(statistics, method, 98.5, levels) for method in METHODS} == {
        "minmax": minmax_range(statistics),
        **{f"minmax_{images}": typical_extremes(statistics, images) for images in (1, 2, 4, 8, 16, 32, 64, 128)},
        "moving_average": moving_average_range(statistics),
        "percentile": percentile_range(statistics, 98.5),
        "mse": mse_range(statistics, levels),
        "entropy": entropy_range(statistics),
    }
    assert len({choose_range(statistics, method, 98.5, levels) for method in METHODS}) == len(METHODS)
