"""Bias correction: the shift that it takes out, and that it never does harm."""

from collections.abc import Collection

import miniature
import pytest
import torch
from fresh_process import ENGINES, collect, convert_params
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.convert.bias_correction import (
    Correction,
    correct_biases,
    correction_rows,
    describe_correction,
    typical_shift,
)
from ptqflow.convert.criterion import Images
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.convert.quantize import quantize
from ptqflow.fx.fake_quant import Simulation, copy_to_simulate, round_weight
from ptqflow.fx.graph import weighted_modules
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


class Added(nn.Module):
    """Adds to what a layer returns what the layer before has read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(count, 8, 3, padding=1) for count in (3, 8, 8))
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.fc((self.second(self.first(x).relu()) + x).mean((2, 3)))


def coarse(model: nn.Module) -> nn.Module:
    """Enlarge a weight of each layer, which leaves few levels to the others, so that rounding shifts its output."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.flatten()[0] *= 30
    return canonicalize(model.eval(), miniature.INPUT_SHAPE)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return coarse({"residual": miniature.residual, "gated": miniature.gated}[name](6))


def prepared_with(model: nn.Module, inputs: list[Tensor], **changes: object) -> GraphModule:
    params = convert_params(**{"weight": {"per_channel": False}, "head": "int8", "fuse_additions": False} | changes)
    scheme = resolve_scheme(model, params)
    prepared = prepare(model, miniature.INPUT_SHAPE, scheme)
    set_ranges(model, prepared, scheme, collect(model, inputs), params)
    return prepared


def images_of(model: nn.Module, inputs: list[Tensor]) -> Images:
    images = torch.cat(inputs)
    with torch.inference_mode():
        return Images(images, model(images), 16)


def simulate(prepared: GraphModule) -> Simulation:
    simulated = copy_to_simulate(prepared)
    for name, layer in weighted_modules(simulated).items():
        round_weight(layer, getattr(simulated.get_submodule(name), "qconfig", None))
    return Simulation(simulated)


def biases(prepared: GraphModule) -> dict[str, Tensor | None]:
    return {name: layer.bias for name, layer in weighted_modules(prepared).items()}


def with_biases_of(prepared: GraphModule, other: GraphModule, names: Collection[str]) -> None:
    for name in names:
        weighted_modules(prepared)[name].bias = weighted_modules(other)[name].bias


def log_power(errors: Tensor, shift: Tensor) -> float:
    return float((errors - shift).square().sum((1, 2)).log().mean())


def test_the_shift_minimizes_the_mean_logarithm_of_the_power_of_the_error() -> None:
    random = torch.Generator().manual_seed(0)
    scales = 0.5 + torch.rand(20, 1, 1, generator=random)
    errors = torch.randn(20, 9, 3, generator=random) * scales + torch.tensor([1, -2, 0])

    found = typical_shift([errors])

    least = log_power(errors, found)
    assert least < log_power(errors, errors.mean((0, 1)))
    for step in 0.02 * torch.randn(200, 3, generator=random):
        assert log_power(errors, found + step) > least


def test_a_few_images_with_large_errors_do_not_decide_the_shift_as_they_do_the_mean() -> None:
    errors = torch.randn(40, 16, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    errors[:3] += 1000

    assert (typical_shift([errors]) - 0.5).abs().max() < 0.1
    assert errors.mean((0, 1)).min() > 70


@pytest.mark.parametrize("zero", [0, 1, 5, 6])
def test_images_without_error_neither_decide_alone_nor_divide_by_zero(zero: int) -> None:
    errors = 0.25 + 0.1 * torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0))
    errors[:zero] = 0

    shift = typical_shift([errors])

    assert shift.isfinite().all()
    if zero == 1:
        assert (shift - 0.25).abs().max() < 0.2


@pytest.mark.parametrize("name", ["residual", "gated"])
def test_rounded_weights_shift_each_layer_and_the_correction_takes_that_out(name: str, inputs: list[Tensor]) -> None:
    """On the input of the corrected layers before it, also without a bias, on rows, and where no rounding follows."""
    model = make(name)
    before, after = (prepared_with(model, inputs) for _ in range(2))

    found = correct_biases(after, images_of(model, inputs))

    assert found.layers
    shifts = {}
    simulation, exact = simulate(after), weighted_modules(before)
    for layer, rounded in weighted_modules(simulation.module).items():  # type: ignore[arg-type]

        def compare(rounded: nn.Module, values: tuple[Tensor], output: Tensor, layer: str = layer) -> None:
            errors = exact[layer](values[0]) - output
            rows = (
                errors.flatten(2).mT
                if isinstance(rounded, nn.Conv2d)
                else errors.reshape(len(errors), -1, errors.shape[-1])
            )
            shifts[layer] = typical_shift([rows])

        rounded.register_forward_hook(compare)
    with torch.inference_mode():
        simulation.run(torch.cat(inputs))
    for layer in found.layers:
        change = biases(after)[layer] - (0 if biases(before)[layer] is None else biases(before)[layer])
        assert change.abs().max() > 1e-3, "quantization shifts it"
        assert shifts[layer].abs().max() < 0.2 * change.abs().max()


@pytest.mark.parametrize("name", ["residual", "gated"])
def test_the_logits_of_the_real_int8_network_are_nearer_to_fp32(name: str, inputs: list[Tensor]) -> None:
    model, images = make(name), images_of(make(name), inputs)
    statistics, train = collect(model, inputs), miniature.split(40)

    scores = {
        corrects: images.score(
            quantize(
                model,
                miniature.card(),
                convert_params(weight={"per_channel": False}, bias_correction=corrects),
                statistics,
                train,
            ).converted
        ).db
        for corrects in (False, True)
    }

    assert scores[True] > scores[False] + 0.5


def test_weights_and_ranges_stay_and_the_result_says_which_layers_were_corrected(inputs: list[Tensor]) -> None:
    model = make("residual")
    before, after = (prepared_with(model, inputs) for _ in range(2))

    found = correct_biases(after, images_of(model, inputs))

    for name, layer in weighted_modules(after).items():
        assert torch.equal(layer.weight, weighted_modules(before)[name].weight)
    changed = [name for name, bias in biases(after).items() if not torch.equal(bias, biases(before)[name])]
    assert changed == list(found.layers)
    assert found.before_db == pytest.approx(images_of(model, inputs).score(simulate(before).run).db, abs=0.1)
    assert found.after_db == pytest.approx(images_of(model, inputs).score(simulate(after).run).db, abs=0.1)


def test_a_layer_that_runs_twice_and_one_that_stays_fp32_keep_their_biases(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Twice().eval()  # whose canonical form has a layer for each run
    before, after = (prepared_with(model, inputs, keep_fp32=["fc"]) for _ in range(2))

    correct_biases(after, images_of(model, inputs))

    assert torch.equal(biases(after)["twice"], biases(before)["twice"])
    assert torch.equal(biases(after)["fc"], biases(before)["fc"])
    assert not torch.equal(biases(after)["once"], biases(before)["once"])


def test_where_it_gains_nothing_it_is_taken_back(inputs: list[Tensor]) -> None:
    """The uncorrected network stands for FP32, so that nothing is nearer to it."""
    model = make("gated")
    before, after = (prepared_with(model, inputs) for _ in range(2))
    images = images_of(simulate(before).run, inputs)  # type: ignore[arg-type]

    found = correct_biases(after, images)

    assert found.layers == ()
    assert found.before_db > found.after_db
    for name, bias in biases(after).items():
        assert bias is biases(before)[name] is None or torch.equal(bias, biases(before)[name])


def test_images_that_did_not_decide_can_take_it_back(inputs: list[Tensor]) -> None:
    model = make("gated")
    before, after, again = (prepared_with(model, inputs) for _ in range(3))
    decide, against = images_of(model, inputs), images_of(simulate(before).run, inputs[:2])  # type: ignore[arg-type]

    assert correct_biases(after, decide, images_of(model, inputs[2:])).layers
    assert correct_biases(again, decide, against).layers == ()


def test_too_small_a_gain_can_be_refused(inputs: list[Tensor]) -> None:
    model = make("gated")
    found = correct_biases(prepared_with(model, inputs), images_of(model, inputs), least_db=60.0)
    assert found.layers == ()


def test_layers_whose_correction_does_harm_have_it_taken_back_and_the_others_keep_theirs(
    inputs: list[Tensor],
) -> None:
    """The network with one layer corrected stands for FP32."""
    model = make("residual")
    plain, whole, after = (prepared_with(model, inputs) for _ in range(3))
    assert correct_biases(whole, images_of(model, inputs)).layers == ("conv2", "fc")
    with_biases_of(plain, whole, ["fc"])

    found = correct_biases(after, images_of(simulate(plain).run, inputs))  # type: ignore[arg-type]

    assert "fc" in found.layers
    assert "conv2" not in found.layers
    assert found.after_db > found.before_db + 5


def test_a_network_without_a_layer_to_correct_is_unchanged(inputs: list[Tensor]) -> None:
    model = make("residual")
    prepared = prepared_with(model, inputs, keep_fp32=["*"])
    assert correct_biases(prepared, images_of(model, inputs)).layers == ()


def test_what_was_tried_is_reported() -> None:
    taken, refused = Correction(("conv1",), 30.25, 31.5), Correction((), 30.25, 29.0)

    rows = [(row.tensor, row.method, row.sqnr_db) for row in correction_rows(taken)]
    assert rows == [("", "without bias correction", 30.25), ("", "bias correction", 31.5)]
    assert describe_correction(taken) == "bias correction: 30.25 dB without, 31.50 dB with it, taken for 1 layers"
    assert describe_correction(refused) == "bias correction: 30.25 dB without, 29.00 dB with it, not taken"


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
def test_a_layer_that_is_fused_with_an_addition_is_corrected_on_its_own_input(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = coarse(Added())
    fused = prepared_with(model, inputs, engine="onednn", fuse_additions=True)
    assert len(next(node for node in fused.graph.nodes if node.target == "second").all_input_nodes) == 2
    apart = prepared_with(model, inputs, engine="onednn")

    found, expected = (correct_biases(prepared, images_of(model, inputs)) for prepared in (fused, apart))

    assert found.layers == expected.layers == ("stem", "first", "second", "fc")
    assert found.after_db == pytest.approx(expected.after_db, abs=1)
