"""From FP32 to INT8 and the card that says how."""

import copy
from collections.abc import Callable

import miniature
import pytest
import torch
from fresh_process import ENGINES, collect, convert_params, decibels
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.calib.sampling import hash_rows
from ptqflow.convert.quantize import quantize
from ptqflow.core.engines import Engine
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.graph import observer_nodes
from ptqflow.fx.layers import list_layers
from ptqflow.fx.observer import RangeObserver
from ptqflow.fx.prepare import prepare
from ptqflow.fx.qparams import restore_ranges
from ptqflow.models.canonical import canonicalize


def ranges_of(prepared: nn.Module) -> list[tuple[float, int]]:
    observers = [prepared.get_submodule(str(node.target)) for node in observer_nodes(prepared)]
    return [(one.scale, one.zero_point) for one in observers if isinstance(one, RangeObserver)]


def test_the_card_holds_the_ranges_and_the_images_that_they_come_from(network: nn.Module, inputs: list[Tensor]) -> None:
    statistics = collect(network, inputs)

    quantized = quantize(network, miniature.card(), convert_params(head="int8"), statistics, miniature.split(40))

    assert quantized.card.calibration_images == 40
    assert quantized.card.calibration_sha256 == hash_rows(statistics.rows)
    chosen = {name: (one.scale, one.zero_point) for name, one in quantized.card.qparams.items()}
    assert chosen == {name: (one.scale, one.zero_point) for name, one in quantized.qparams.items()}
    assert len(chosen) > 1


def test_ranges_that_are_restored_from_the_card_are_those_that_were_chosen(
    network: nn.Module, inputs: list[Tensor]
) -> None:
    params = convert_params(head="int8")
    quantized = quantize(network, miniature.card(), params, collect(network, inputs), miniature.split(40))
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


class Enlarging(nn.Module):
    """Interpolates with cubic splines, for which torch has no INT8 kernel, twice between INT8 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.last = nn.Conv2d(8, 6, 14)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.first(x), size=(9, 9), mode="bicubic")
        return self.last(F.interpolate(self.mid(x), scale_factor=2, mode="bicubic")).flatten(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_step_without_a_kernel_stays_fp32_and_the_card_says_so(engine: Engine, inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, images = canonicalize(Enlarging(), miniature.INPUT_SHAPE), torch.cat(inputs)
    params = convert_params(engine=engine, head="int8")

    made = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))

    assert set(made.card.scheme.without_kernel) == {"interpolate", "interpolate_1"}
    notes = {layer.name: (layer.precision, layer.note) for layer in list_layers(model, made.converted)}
    lacking = ("fp32", "torch has no INT8 kernel for how it is used here")
    assert notes == dict.fromkeys(("first", "mid", "last"), ("int8", "its output is not rounded")) | dict.fromkeys(
        ("interpolate", "interpolate_1"), lacking
    )
    with torch.inference_mode():
        ratio = sqnr_db(made.converted(images), model(images))
    assert ratio
    assert ratio > decibels(30, engine)


class Mixing(nn.Module):
    """Mixes channels with a function and a constant between INT8 layers."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8, 6)
        self.register_buffer("weight", torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.function(self.first(x), self.weight)).mean((2, 3)))


LACKING, WRONG = "torch has no INT8 kernel for it", "torch's INT8 kernel for it is wrong"


@pytest.mark.parametrize(
    ("mixing", "step", "expected"),
    [
        (Mixing(lambda x, w: x.matmul(w), 8, 8), "matmul", ("int8", "")),
        (Mixing(lambda x, w: w @ x, 8, 8), "matmul", ("fp32", LACKING)),
        (Mixing(lambda x, w: torch.einsum("bchw,oc->bohw", x, w), 8, 8), "einsum", ("fp32", LACKING)),
        (Mixing(lambda x, w: torch.addmm(w[0], x.reshape(-1, 8), w).view(x.shape), 8, 8), "addmm", ("fp32", LACKING)),
        (Mixing(lambda x, w: F.conv_transpose2d(x, w, padding=1), 8, 8, 3, 3), "conv_transpose2d", ("fp32", WRONG)),
        (
            Mixing(lambda x, w: F.conv_transpose2d(x, w * x.mean(), padding=1), 8, 8, 3, 3),
            "conv_transpose2d",
            ("fp32", "its weights depend on the input"),
        ),
    ],
    ids=["matmul", "from the left", "einsum", "addmm", "transposed", "transposed, computed"],
)
def test_a_product_with_a_constant_is_int8_or_listed_as_fp32(
    mixing: Mixing, step: str, expected: tuple[str, str], inputs: list[Tensor]
) -> None:
    model, images = canonicalize(mixing.eval(), miniature.INPUT_SHAPE), torch.cat(inputs)

    made = quantize(model, miniature.card(), convert_params(), collect(model, inputs), miniature.split(40))

    layers = {layer.name: (layer.precision, layer.note) for layer in list_layers(model, made.converted)}
    assert layers[step] == expected
    assert layers["first"] == ("int8", "" if expected[0] == "int8" else "its output is not rounded")
    assert layers["last"] == ("int8", "")
    with torch.inference_mode():
        assert (sqnr_db(made.converted(images), model(images)) or 0) > decibels(30, "x86")
