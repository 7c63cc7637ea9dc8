import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization import default_per_channel_weight_observer, default_weight_observer

from ptqflow.convert.weight_scales import mse_scales

EPS = torch.finfo(torch.float32).eps

SHAPES = {"conv": (16, 8, 3, 3), "depthwise": (32, 1, 3, 3), "pointwise": (24, 40, 1, 1), "linear": (10, 300)}
all_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
both = pytest.mark.parametrize("per_channel", [True, False])
rows_of_weights = st.builds(
    lambda scale, rows, width: torch.tensor(rows, dtype=torch.float32)[:, :width] * scale,
    st.sampled_from([1e-12, 1e-3, 1.0, 100.0]),
    st.lists(st.lists(st.floats(-1, 1, width=32), min_size=12, max_size=12), min_size=1, max_size=5),
    st.integers(1, 12),
)


def weight(shape: tuple[int, ...]) -> Tensor:
    """With a channel ten times as large as the others, one of a single large weight and one of zeros."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    values[0] *= 10
    values[1].view(-1)[0] = -2
    values[2] = 0
    return values


def quantize_dequantize(rows: Tensor, scale: Tensor) -> Tensor:
    """As torch stores the weights of a layer."""
    zero_points = torch.zeros(len(rows), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantized tensors
        return torch.quantize_per_channel(rows, scale, zero_points, 0, torch.qint8).dequantize()


def errors(rows: Tensor, scale: Tensor) -> Tensor:
    return (quantize_dequantize(rows, scale) - rows).double().square().sum(dim=1)


def minmax(rows: Tensor) -> Tensor:
    return (rows.abs().amax(dim=1) / 127.5).clamp_min(EPS)


def least_errors(rows: Tensor) -> Tensor:
    """Of scales from a third of the usual one to beyond that at which the largest weight has a code."""
    shares = torch.linspace(0.33, 1.01, 1500).tolist()
    return torch.stack([errors(rows, (share * minmax(rows)).clamp_min(EPS)) for share in shares]).amin(dim=0)


@all_shapes
@both
def test_the_squared_error_is_close_to_the_least_of_all_scales(shape: tuple[int, ...], per_channel: bool) -> None:
    rows = weight(shape).flatten(1) if per_channel else weight(shape).reshape(1, -1)

    chosen, least = errors(rows, mse_scales(rows)), least_errors(rows)
    slack = 1.02 if rows.shape[1] > 100 else 1.35  # of a few weights each finds its own code by chance
    assert chosen.sum() <= slack * least.sum()
    assert (chosen <= 2 * least + 1e-12).all()


@settings(max_examples=150, deadline=None)
@given(rows_of_weights)
def test_no_row_has_a_better_scale_in_steps_of_a_200th_of_the_usual_one(rows: Tensor) -> None:
    shares = [*torch.linspace(0.5, 1, 101).tolist(), 127.5 / 127]  # 1 is that of torch's own observer
    least = torch.stack([errors(rows, (share * minmax(rows)).clamp_min(EPS)) for share in shares]).amin(dim=0)

    scale = mse_scales(rows)
    assert scale.shape == (len(rows),)
    assert (scale >= EPS).all()
    rounding = rows.abs().amax(dim=1).double().square() * 1e-12
    assert (errors(rows, scale) <= least * (1 + 1e-4) + rounding).all()


def test_a_large_weight_among_very_many_is_clipped() -> None:
    rows = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = torch.tensor([12.0, -12.0])

    scale = mse_scales(rows)
    assert (0.5 * minmax(rows) < scale).all()
    assert (scale < 0.8 * minmax(rows)).all()


@all_shapes
def test_the_gain_over_the_largest_weight_is_real(shape: tuple[int, ...]) -> None:
    rows = torch.randn(64, np.prod(shape[1:]), generator=torch.Generator().manual_seed(0))

    assert errors(rows, mse_scales(rows)).sum() < 0.99 * errors(rows, minmax(rows)).sum()


@pytest.mark.parametrize("value", [0.3, -0.3, 5.0])
def test_equal_weights_lose_nothing(value: float) -> None:
    rows = torch.full((2, 9), value)

    assert (errors(rows, mse_scales(rows)) < 1e-6 * errors(rows, minmax(rows))).all()


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-12])
def test_a_row_of_nothing_has_the_smallest_scale_and_stays_nothing(value: float) -> None:
    rows = torch.stack([torch.full((9,), value), torch.ones(9)])

    scale = mse_scales(rows)
    assert scale[0] == EPS
    assert quantize_dequantize(rows, scale)[0].tolist() == [0.0] * 9
    assert scale[1] > 1e-3


def test_rows_do_not_influence_one_another() -> None:
    rows = weight(SHAPES["conv"]).flatten(1)

    assert torch.equal(mse_scales(rows), torch.cat([mse_scales(row[None]) for row in rows]))


@both
def test_the_scale_of_the_largest_weight_is_that_of_torch(per_channel: bool) -> None:
    """Else `minmax` here would compare with something that nobody uses."""
    values = weight(SHAPES["conv"])
    reference = default_per_channel_weight_observer() if per_channel else default_weight_observer()
    reference(values)

    expected = minmax(values.flatten(1) if per_channel else values.reshape(1, -1))
    assert torch.equal(reference.calculate_qparams()[0], expected)
