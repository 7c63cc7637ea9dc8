"""From FP32 to INT8 and the card that says how."""

import copy

import miniature
import torch
from fresh_process import collect, convert_params
from torch import Tensor, nn

from ptqflow.calib.sampling import hash_rows
from ptqflow.convert.quantize import quantize
from ptqflow.fx.graph import observer_nodes
from ptqflow.fx.observer import RangeObserver
from ptqflow.fx.prepare import prepare
from ptqflow.fx.qparams import restore_ranges


def ranges_of(prepared: nn.Module) -> list[tuple[float, int]]:
    observers = [prepared.get_submodule(str(node.target)) for node in observer_nodes(prepared)]
    return [(one.scale, one.zero_point) for one in observers if isinstance(one, RangeObserver)]


def test_the_card_holds_the_ranges_and_the_images_that_they_come_from(network: nn.Module, inputs: list[Tensor]) -> None:
    statistics = collect(network, inputs)

    quantized = quantize(network, miniature.card(), convert_params(), statistics, miniature.split(40))

    assert quantized.card.calibration_images == 40
    assert quantized.card.calibration_sha256 == hash_rows(statistics.rows)
    chosen = {name: (one.scale, one.zero_point) for name, one in quantized.card.qparams.items()}
    assert chosen == {name: (one.scale, one.zero_point) for name, one in quantized.qparams.items()}
    assert len(chosen) > 1


def test_ranges_that_are_restored_from_the_card_are_those_that_were_chosen(
    network: nn.Module, inputs: list[Tensor]
) -> None:
    quantized = quantize(network, miniature.card(), convert_params(), collect(network, inputs), miniature.split(40))
    again = prepare(network, miniature.INPUT_SHAPE, quantized.scheme)
    assert set(ranges_of(again)) == {(1.0, 0)}

    restore_ranges(network, again, quantized.card.qparams)

    assert ranges_of(again) == ranges_of(quantized.prepared)
    assert len(set(ranges_of(again))) > 1


def test_the_control_has_no_ranges_and_no_images(network: nn.Module) -> None:
    control = quantize(network, miniature.card(), convert_params(), None, miniature.split(40))

    assert (control.card.calibration_images, control.card.calibration_sha256, control.card.qparams) == (0, "", {})
    assert set(ranges_of(control.prepared)) == {(1.0, 0)}


def test_the_network_is_left_unchanged(network: nn.Module, inputs: list[Tensor]) -> None:
    before = copy.deepcopy(network.state_dict())

    quantize(
        network, miniature.card(), convert_params(bias_correction=True), collect(network, inputs), miniature.split(40)
    )

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
