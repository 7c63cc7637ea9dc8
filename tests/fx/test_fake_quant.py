"""The simulation against the real INT8 network."""

import miniature
import pytest
import torch
from fresh_process import FULL_RANGE, Branched, collect, convert_params
from torch import Tensor, nn

from ptqflow.convert.quantize import quantize
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.fake_quant import Simulation, copy_to_simulate, dequantized_weight, round_weight
from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.graph import weighted_modules
from ptqflow.models.canonical import canonicalize


@pytest.mark.parametrize("network", [miniature.residual, Branched])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_simulation_agrees_with_the_real_int8_network(
    network: type[nn.Module], per_channel: bool, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model, images = network(len(miniature.CLASSES)).eval(), torch.cat(inputs)
    params = convert_params(engine=FULL_RANGE, head="int8", weight={"per_channel": per_channel})
    quantized = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))

    simulated = copy_to_simulate(quantized.prepared)
    for name, layer in weighted_modules(simulated).items():
        round_weight(layer, simulated.get_submodule(name).qconfig)
    with torch.inference_mode():
        logits, real, fp32 = Simulation(simulated).run(images), quantized.converted(images), model(images)
    assert (logits.argmax(1) == real.argmax(1)).float().mean() >= 0.95
    between, cost = sqnr_db(logits, real), sqnr_db(real, fp32)
    assert between is None or between > cost + 6


class Activated(nn.Module):
    """A layer whose output is rounded, one whose sums go to Hardswish, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.hardswish(self.second(self.first(x).relu())).mean((2, 3)))


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_weights_of_the_int8_network_are_those_that_the_simulation_rounds_to(
    per_channel: bool, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model = canonicalize(Activated().eval(), miniature.INPUT_SHAPE)
    params = convert_params(head="fp32", weight={"per_channel": per_channel}, bias_correction=False)
    quantized = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))
    assert isinstance(quantized.converted.get_submodule("second"), FloatOutput)

    for name, layer in weighted_modules(quantized.prepared).items():
        weight = dequantized_weight(quantized.converted.get_submodule(name))
        assert (weight is None) == (name == "head")
        if weight is not None:
            round_weight(layer, quantized.prepared.get_submodule(name).qconfig)
            torch.testing.assert_close(weight, layer.weight.detach())
