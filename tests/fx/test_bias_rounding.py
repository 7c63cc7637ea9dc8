"""Biases in whole steps of the int32 sums, against exact arithmetic."""

from fractions import Fraction

import miniature
import numpy as np
import pytest
import torch
from fresh_process import collect, convert_params
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from ptqflow.convert.quantize import quantize
from ptqflow.fx.bias_rounding import _InputScales, rounded_bias, sum_scale
from ptqflow.fx.prepare import without_torch_warnings

SCALES = (0.013, 0.002, 0.4)


def weight(per_channel: bool) -> Tensor:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    with without_torch_warnings():
        if per_channel:
            return torch.quantize_per_channel(
                values, torch.tensor(SCALES), torch.zeros(3, dtype=torch.int64), 0, torch.qint8
            )
        return torch.quantize_per_tensor(values, SCALES[0], 0, torch.qint8)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_step_of_the_sums_is_the_product_of_both_scales(per_channel: bool) -> None:
    scale = sum_scale(weight(per_channel), 0.02)

    expected = np.float32(SCALES if per_channel else SCALES[0]) * np.float32(0.02)
    assert scale.numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_rounded_bias_is_the_nearest_multiple_of_a_step(per_channel: bool) -> None:
    bias, quantized = torch.tensor([0.1, -3.7, 0.0]), weight(per_channel)
    steps = sum_scale(quantized, 0.02).expand(3).tolist()

    for before, after, step in zip(bias.tolist(), rounded_bias(bias, quantized, 0.02).tolist(), steps, strict=True):
        nearest = round(Fraction(before) / Fraction(step)) * Fraction(step)
        assert after == np.float32(float(nearest))


@pytest.mark.parametrize("rounds", [True, False])
def test_the_biases_of_a_converted_network_are_multiples_exactly_where_that_is_asked_for(
    inputs: list[Tensor], rounds: bool
) -> None:
    torch.manual_seed(0)
    model = miniature.residual(6).eval()
    params = convert_params(round_biases=rounds, head="int8", activation={"reduce_range": True})
    quantized = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))

    layer = quantized.converted.conv1
    steps = layer.bias().detach().double() / sum_scale(layer.weight(), quantized.qparams["x"].scale).double()
    assert (float((steps - steps.round()).abs().max()) < 1e-3) is rounds


class Dead(nn.Module):
    """Filters of zeros with a bias, on inputs that are small beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 8), nn.Linear(6, 4)
        with torch.no_grad():
            self.conv.weight[:2], self.conv.bias[:2] = 0, 300.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x * 1e-4)).flatten(1))


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_of_more_steps_than_int32_holds_enlarges_the_scale_of_its_channel(
    per_channel: bool, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model, images = Dead().eval(), torch.cat(inputs)
    params = convert_params(weight={"per_channel": per_channel, "method": "minmax"}, head="int8")
    converted = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40)).converted

    layer = converted.get_submodule("conv")
    (step,) = input_scales(converted, images)["conv"]
    most = (layer.bias().double().abs() / sum_scale(layer.weight(), step).double()).max()
    assert most <= 2**30
    with torch.inference_mode():
        torch.testing.assert_close(converted(images), model(images), rtol=0.02, atol=0.02)


def input_scales(converted: GraphModule, images: Tensor) -> dict[str, set[float]]:
    scales = _InputScales(converted)
    with torch.inference_mode():
        scales.run(images)
    return scales.of_layer
