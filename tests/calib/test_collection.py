"""What the observers of a network see of images that run through it."""

from typing import Any

import numpy as np
import pytest
import torch
from statistics_of_miniatures import INFINITY, NAN, OBSERVED, assert_equal, collect, only_residual
from torch import Tensor, fx, nn
from torch.ao.quantization.quantize_fx import fuse_fx

from ptqflow.calib.histogram import histogram_of
from ptqflow.calib.statistics import Statistics
from ptqflow.core.errors import ModelError


class Recorder(fx.Interpreter):
    """Runs a network and keeps what each node returns."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.given: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.given[n.name] = value
        return value


def test_the_statistics_are_those_of_what_flows_through_the_fused_fp32_network(
    function: str, network: nn.Module, inputs: list[Tensor], statistics: Statistics
) -> None:
    fused = fuse_fx(network).to(memory_format=torch.channels_last)
    recorded: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for batch in inputs[:4]:
            recorder = Recorder(fused)
            recorder.run(batch.contiguous(memory_format=torch.channels_last))
            for name, value in recorder.given.items():
                recorded.setdefault("relu" if name == "relu_1" else name, []).append(value)

    assert list(statistics.tensors) == OBSERVED[function]
    for name, seen in statistics.tensors.items():
        values = torch.cat(recorded[name])
        expected = histogram_of(values, values.min().item(), values.max().item())
        assert seen is not None
        assert seen.minima.tolist() == [batch.min().item() for batch in recorded[name]]
        assert seen.maxima.tolist() == [batch.max().item() for batch in recorded[name]]
        assert (seen.histogram.exponent, seen.histogram.first) == (expected.exponent, expected.first)
        assert np.array_equal(seen.histogram.counts, expected.counts)
        assert seen.count == values.numel()
        assert seen.image_minima.tolist() == values.flatten(1).amin(1).tolist()
        assert seen.image_maxima.tolist() == values.flatten(1).amax(1).tolist()


class Transposing(nn.Module):
    """Has a tensor whose first dimension is not the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rows, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(36, 36), nn.Linear(36, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rows(self.conv(x).flatten(2).transpose(0, 1)).transpose(0, 1).mean(1))


def test_where_some_tensor_has_another_first_dimension_than_images_the_extremes_are_those_of_batches(
    inputs: list[Tensor],
) -> None:
    torch.manual_seed(0)
    for seen in collect(Transposing().eval(), inputs[:4]).tensors.values():
        assert seen is not None
        assert seen.image_minima.tolist() == seen.minima.tolist()
        assert seen.image_maxima.tolist() == seen.maxima.tolist()
        assert len(seen.image_minima) == 4


def test_statistics_do_not_depend_on_what_was_collected_before(
    network: nn.Module, inputs: list[Tensor], statistics: Statistics
) -> None:
    collect(network, inputs[2:])

    assert_equal(collect(network, inputs[:4]), statistics)


@only_residual
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("batch", [0, 2])
def test_an_input_that_is_not_finite_is_refused(
    network: nn.Module, inputs: list[Tensor], value: float, batch: int
) -> None:
    inputs = [tensor.clone() for tensor in inputs]
    inputs[batch][0, 0, 0, 0] = value

    with pytest.raises(ModelError, match="calibration: x returns NaN or infinity; are the weights and the images fin"):
        collect(network, inputs)


@only_residual
@pytest.mark.parametrize(("layer", "value"), [("conv2", NAN), ("fc", NAN), ("fc", 3e38)])
def test_an_activation_that_is_not_finite_is_refused_by_the_layer_it_comes_from(
    network: nn.Module, inputs: list[Tensor], layer: str, value: float
) -> None:
    nn.init.constant_(network.get_submodule(layer).weight, value)

    with pytest.raises(ModelError, match=f"calibration: {layer} returns NaN or infinity"):
        collect(network, inputs)
