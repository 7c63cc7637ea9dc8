import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptqflow.calib.observer import StatisticsObserver
from ptqflow.calib.statistics import Statistics
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.convert.range_figures import histogram_rows, range_rows
from ptqflow.convert.ranges import Levels, QParams, Range, to_qparams
from ptqflow.core.figures import QuantizedRange

CODES = Levels(255, symmetric=False)


def observe(values: Tensor) -> TensorStatistics:
    observer = StatisticsObserver()
    observer(values)
    assert observer.statistics is not None
    return observer.statistics


def statistics_of(**tensors: Tensor | None) -> Statistics:
    seen = {name: None if values is None else observe(values) for name, values in tensors.items()}
    return Statistics(seen, np.zeros((1, 1), np.int64))


VALUES = {
    "fc": torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 3,
    "conv1": torch.randn(4000, generator=torch.Generator().manual_seed(1)).relu(),
    "x": torch.tensor([-1.0, 2.0, 2.0]),
}
QPARAMS = {
    "conv1": to_qparams(Range(0.0, 1.5), CODES),
    "fc": to_qparams(Range(-4.0, 6.0), Levels(127, symmetric=True)),
    "never": to_qparams(Range(0.0, 1.0), CODES),
}


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    return statistics_of(**VALUES, never=None)


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def test_every_quantized_tensor_with_values_has_its_range_and_clipped_share(statistics: Statistics) -> None:
    metrics = {row.tensor: row.model_dump(exclude={"tensor"}) for row in range_rows(statistics, QPARAMS)}

    assert list(metrics) == ["conv1", "fc"]
    for name, figures in metrics.items():
        scale, zero_point, largest = QPARAMS[name].scale, QPARAMS[name].zero_point, QPARAMS[name].levels.largest
        low, high = -zero_point * scale, (largest - zero_point) * scale
        assert {key: value for key, value in figures.items() if key != "clipped"} == {
            "low": six_digits(low),
            "high": six_digits(high),
            "scale": six_digits(scale),
            "zero_point": zero_point,
        }
        outside = (VALUES[name] < low - scale / 2) | (VALUES[name] > high + scale / 2)
        assert figures["clipped"] == pytest.approx(outside.double().mean().item(), abs=0.001)
        assert figures["clipped"] > 0.01


def test_figures_by_hand() -> None:
    rows = range_rows(statistics_of(x=torch.tensor([-1.0, 0.0, 1.0, 2.0])), {"x": QParams(0.0078125, 128, CODES)})

    expected = QuantizedRange(tensor="x", low=-1.0, high=0.992188, scale=0.0078125, zero_point=128, clipped=0.5)
    assert rows == [expected]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=300), st.sampled_from([1e-30, 1.0, 1e30]))
def test_no_more_than_64_bars_a_tensor_hold_all_its_values(values: list[float], scale: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float32) * scale
    rows = histogram_rows(statistics_of(x=tensor), {"x": QPARAMS["conv1"]})

    assert 1 <= len(rows) <= 64
    assert sum(row["values"] for row in rows) == len(values)
    assert rows[0]["values"] > 0
    assert rows[-1]["values"] > 0
    slack = 1e-5 * tensor.abs().max().item()  # of six digits
    assert rows[0]["from"] - slack <= tensor.min().item() <= rows[0]["to"] + slack
    assert rows[-1]["from"] - slack <= tensor.max().item() <= rows[-1]["to"] + slack
    assert [row["to"] for row in rows[:-1]] == [row["from"] for row in rows[1:]]


def test_each_bar_counts_the_values_between_its_edges(statistics: Statistics) -> None:
    rows = histogram_rows(statistics, QPARAMS)

    assert list(dict.fromkeys(row["tensor"] for row in rows)) == ["conv1", "fc"]
    for name in ("conv1", "fc"):
        bars = [row for row in rows if row["tensor"] == name]
        assert 32 <= len(bars) <= 64
        for row in bars:
            inside = (VALUES[name] >= row["from"]) & (VALUES[name] < row["to"])
            assert row["values"] == inside.sum()
            assert (row["low"], row["high"]) == (
                six_digits(QPARAMS[name].range.low),
                six_digits(QPARAMS[name].range.high),
            )


def test_all_of_it_is_plain_json(statistics: Statistics) -> None:
    made = histogram_rows(statistics, QPARAMS)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_bins_that_would_make_65_bars_make_33() -> None:
    statistics = statistics_of(x=torch.tensor([-64.0, 0.0, 4095.0]))

    rows = histogram_rows(statistics, {"x": QPARAMS["conv1"]})
    assert [(row["from"], row["to"]) for row in rows] == [(128.0 * bar, 128.0 * (bar + 1)) for bar in range(-1, 32)]
    assert [row["values"] for row in rows] == [1, 1, *[0] * 30, 1]


def test_a_tensor_of_zeros_is_one_bar() -> None:
    statistics = statistics_of(x=torch.zeros(10))

    (row,) = histogram_rows(statistics, {"x": to_qparams(Range(0.0, 0.0), CODES)})
    assert (row["from"], row["values"]) == (0.0, 10)
