"""The observers that torch.ao converts by, against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.ao.quantization import default_per_channel_weight_observer, default_weight_observer

from ptqflow.fx.observer import RangeObserver, WeightObserver, unit_scales

SHAPES = {"conv": (16, 8, 3, 3), "depthwise": (32, 1, 3, 3), "pointwise": (24, 40, 1, 1), "linear": (10, 300)}
all_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
both = pytest.mark.parametrize("per_channel", [True, False])


def weight(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def third_of_the_largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(dim=1) / 3


def test_a_range_observer_changes_no_value() -> None:
    values = weight((3, 4))

    assert RangeObserver()(values) is values


def test_without_a_choice_every_weight_scale_is_1() -> None:
    assert unit_scales(torch.zeros(5, 3)).tolist() == [1.0] * 5


def test_scale_and_zero_point_are_what_they_were_set_to_and_1_and_0_before() -> None:
    observer = RangeObserver(127)
    observer(torch.randn(10))

    scale, zero_point = observer.calculate_qparams()
    assert (scale.tolist(), scale.dtype) == ([1.0], torch.float32)
    assert (zero_point.tolist(), zero_point.dtype) == ([0], torch.int32)
    assert (observer.quant_min, observer.quant_max, observer.dtype) == (0, 127, torch.quint8)

    observer.scale, observer.zero_point = 0.25, 7
    assert [qparam.item() for qparam in observer.calculate_qparams()] == [0.25, 7]


@all_shapes
def test_the_observer_of_channels_has_a_scale_for_each(shape: tuple[int, ...]) -> None:
    observer, values = WeightObserver(True, third_of_the_largest), weight(shape)

    assert observer(values) is values
    scale, zero_point = observer.calculate_qparams()
    assert torch.equal(scale, third_of_the_largest(values.flatten(1)))
    assert zero_point.tolist() == [0] * shape[0]


@all_shapes
def test_the_observer_of_a_tensor_has_one_scale(shape: tuple[int, ...]) -> None:
    observer, values = WeightObserver(False, third_of_the_largest), weight(shape)
    observer(values.requires_grad_())

    scale, zero_point = observer.calculate_qparams()
    assert torch.equal(scale, third_of_the_largest(values.detach().reshape(1, -1)))
    assert not scale.requires_grad
    assert zero_point.tolist() == [0]


@both
def test_the_observer_says_of_itself_what_that_of_torch_says(per_channel: bool) -> None:
    observer = WeightObserver(per_channel, third_of_the_largest)
    reference = default_per_channel_weight_observer() if per_channel else default_weight_observer()

    for name in ("dtype", "qscheme", "quant_min", "quant_max", *(["ch_axis"] if per_channel else [])):
        assert getattr(observer, name) == getattr(reference, name), name
    for one in (observer, reference):
        one(weight(SHAPES["conv"]))
    for ours, torchs in zip(observer.calculate_qparams(), reference.calculate_qparams(), strict=True):
        assert (ours.dtype, ours.shape) == (torchs.dtype, torchs.shape)
