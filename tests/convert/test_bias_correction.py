"""Empirical bias correction, against the mean outputs that it is to restore."""

import miniature
import pytest
import torch
from fresh_process import collect, convert_params
from torch import Tensor, nn

from ptqflow.convert.bias_correction import correct_biases
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.fx.fake_quant import Simulation, copy_to_simulate, round_weight
from ptqflow.fx.graph import layer_means, weighted_modules
from ptqflow.fx.prepare import prepare
from ptqflow.models.canonical import canonicalize


class Twice(nn.Module):
    """Runs one of its layers twice."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.twice(self.twice(self.once(x))).mean((2, 3)))


def corrected(model: nn.Module, inputs: list[Tensor]) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """Return the prepared network before and after, and each layer's mean output in FP32."""
    statistics = collect(model, inputs)
    params = convert_params(weight={"per_channel": False}, head="int8")
    scheme = resolve_scheme(model, params)
    before, after = (prepare(model, miniature.INPUT_SHAPE, scheme) for _ in range(2))
    for one in (before, after):
        set_ranges(model, one, scheme, statistics, params)
    correct_biases(after, statistics.means, inputs)
    return before, after, {name: torch.from_numpy(means).mean(0) for name, means in statistics.means.items()}


def mean_outputs(prepared: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return each layer's mean output with values and weights rounded."""
    simulated, means = copy_to_simulate(prepared), {}
    for name, layer in weighted_modules(simulated).items():
        round_weight(layer, getattr(simulated.get_submodule(name), "qconfig", None))
        layer.register_forward_hook(
            lambda layer, _, output, name=name: means.__setitem__(name, layer_means(layer, output))
        )
    with torch.inference_mode():
        Simulation(simulated).run(images)
    return means


def test_each_layer_has_the_mean_output_of_fp32_again(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    before, after, target = corrected(miniature.residual(6).eval(), inputs)
    images = torch.cat(inputs)
    shifted, restored = mean_outputs(before, images), mean_outputs(after, images)

    assert list(target) == ["conv1", "conv2", "fc"]
    for name, expected in target.items():
        assert (shifted[name] - expected).abs().max() > 1e-3, "quantization shifts it"
        torch.testing.assert_close(restored[name], expected, rtol=0, atol=1e-5)


def test_layers_whose_output_is_not_rounded_have_it_too_also_without_bias_and_on_rows(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    before, after, target = corrected(canonicalize(miniature.gated(6), miniature.INPUT_SHAPE), inputs)
    images = torch.cat(inputs)
    shifted, restored = mean_outputs(before, images), mean_outputs(after, images)

    assert list(target) == ["stem.0", "squeeze", "excite", "depthwise", "widen", "narrow", "fc"]
    assert before.depthwise.bias is before.narrow.bias is None
    for name, expected in target.items():
        assert (shifted[name] - expected).abs().max() > 1e-4, "quantization shifts it"
        torch.testing.assert_close(restored[name], expected, rtol=0, atol=1e-5)


def test_a_layer_that_runs_twice_keeps_its_bias(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    _, after, _ = corrected(model, inputs)

    assert torch.equal(after.twice.bias, model.twice.bias)
    assert not torch.equal(after.once.bias, model.once.bias)


@pytest.mark.parametrize("name", ["conv1", "fc"])
def test_weights_are_left_unchanged(inputs: list[Tensor], name: str) -> None:
    torch.manual_seed(0)
    before, after, _ = corrected(miniature.residual(6).eval(), inputs)

    layers = [weighted_modules(one)[name] for one in (before, after)]
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].bias, layers[1].bias)
