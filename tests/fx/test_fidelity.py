import pytest
import torch
from fresh_process import collect, convert_params
from miniature import INPUT_SHAPE, card, split
from torch import Tensor, nn

from ptqflow.convert.quantize import quantize
from ptqflow.core.errors import ModelError
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.fx.fidelity import Fidelity, measure_fidelity, require_fidelity
from ptqflow.models.canonical import canonicalize


class Wide(nn.Module):
    """Has a channel a thousand times as large as the others, which one scale rounds to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bad, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 6)
        self.pool = nn.MaxPool2d(3, 1, 1)
        with torch.no_grad():
            self.bad.weight[0] *= 1e4
            self.last.weight[:, 0] *= 1e-8

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.bad(self.first(x)))).flatten(1)


def quantized(network: nn.Module, inputs: list[Tensor]) -> tuple[nn.Module, torch.fx.GraphModule]:
    model = canonicalize(network, INPUT_SHAPE)
    return model, quantize(model, card(), convert_params(), collect(model, inputs), split(40)).converted


def test_it_is_the_median_over_the_images(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, converted = quantized(Wide(), inputs)
    with torch.inference_mode():
        expected = median_sqnr_db(converted(inputs[0]), model(inputs[0]))
    assert measure_fidelity(model, converted, inputs[0]) == Fidelity(expected, f"{len(inputs[0])} calibration images")


def test_a_network_that_lost_its_signal_is_refused_and_the_step_is_named_first(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, converted = quantized(Wide(), inputs)
    fidelity = measure_fidelity(model, converted, inputs[0])

    assert fidelity.sqnr_db < 10
    message = r"dB to FP32, the median of \d+ .* convert.min_sqnr_db is 10; most is lost in last"
    with pytest.raises(ModelError, match=message) as refusal:
        require_fidelity(fidelity, 10, model, converted, inputs[0])
    assert "\n" not in str(refusal.value)


def test_a_limit_that_holds_and_none_pass(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, converted = quantized(Wide(), inputs)
    require_fidelity(Fidelity(10.0, ""), 10, model, converted, inputs[0])
    require_fidelity(Fidelity(-5.0, ""), None, model, converted, inputs[0])
