from collections.abc import Callable

import miniature
import pytest
import torch
from fresh_process import ENGINES, Branched, collect, convert_params, decibels
from torch import Tensor, nn
from torch.ao.quantization import (
    PerChannelMinMaxObserver,
    default_per_channel_weight_observer,
    default_weight_observer,
)
from torch.ao.quantization.backend_config import get_native_backend_config, get_onednn_backend_config
from torch.nn import functional as F

from ptqflow.convert.quantize import quantize
from ptqflow.core.engines import Engine
from ptqflow.core.errors import ModelError
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.graph import name_observed, observer_nodes
from ptqflow.fx.observer import RangeObserver, WeightObserver, unit_scales
from ptqflow.fx.prepare import EVERYTHING, Scheme, backend_config, prepare, without_torch_warnings
from ptqflow.models.canonical import canonicalize


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Looping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sum(x[i] for i in range(len(x)))


class Converting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.max())


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return {}["two\nlines"]


class Network(nn.Module):
    """A convolution, what a function makes of its output and of a layer, and a head."""

    def __init__(self, body: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.layer = layer
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.layer, self.conv(x))
        return self.fc(self.last(x).mean((2, 3)))


def scheme(**changes: object) -> Scheme:
    return EVERYTHING.model_copy(update={"fuse_additions": True} | changes)


def run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def fidelity(model: nn.Module, engine: Engine, inputs: list[Tensor]) -> float:
    """SQNR of the INT8 network."""
    images, params = torch.cat(inputs), convert_params(engine=engine)
    converted = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40)).converted
    ratio = sqnr_db(run(converted, images), run(model, images))
    assert ratio
    return ratio


def test_the_model_itself_is_left_unchanged(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    prepared = prepare(network.train(), miniature.INPUT_SHAPE, EVERYTHING)

    assert any(isinstance(module, RangeObserver) for module in prepared.modules())
    assert not any(isinstance(module, RangeObserver) for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize("engine", ENGINES)
def test_observers_see_and_change_nothing_on_the_way(engine: Engine, network: nn.Module, inputs: list[Tensor]) -> None:
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme(engine=engine))

    assert (run(prepared, inputs[0]) - run(network, inputs[0])).abs().max() < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_each_activation_has_a_range_observer_with_the_levels_of_the_scheme(
    engine: Engine, reduce_range: bool, network: nn.Module
) -> None:
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme(engine=engine, reduce_range=reduce_range))
    observers = [module for module in prepared.modules() if isinstance(module, RangeObserver)]

    assert len(observers) > 2
    largest = 127 if reduce_range else 255
    assert {(observer.quant_min, observer.quant_max, observer.dtype) for observer in observers} == {
        (0, largest, torch.quint8)
    }


@pytest.mark.parametrize(
    ("per_channel", "mse_weights", "expected"),
    [
        (True, False, default_per_channel_weight_observer()),
        (False, False, default_weight_observer()),
        (True, True, WeightObserver(True, unit_scales)),
        (False, True, WeightObserver(False, unit_scales)),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_are_observed_as_the_scheme_says_whatever_the_engine(
    engine: Engine, per_channel: bool, mse_weights: bool, expected: PerChannelMinMaxObserver, network: nn.Module
) -> None:
    chosen = scheme(engine=engine, per_channel=per_channel, mse_weights=mse_weights)
    prepared = prepare(network, miniature.INPUT_SHAPE, chosen)
    observer = prepared.fc.qconfig.weight()

    assert (type(observer), observer.qscheme, observer.dtype) == (type(expected), expected.qscheme, expected.dtype)
    assert (observer.quant_min, observer.quant_max) == (expected.quant_min, expected.quant_max)


@pytest.mark.parametrize("kept", ["stem", "left", "gate", "gate.0", "gate.1", "fc", "act", "avgpool"])
@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_have_the_name_of_whatever_an_engine_observes_and_whatever_stays_fp32(
    engine: Engine, kept: str
) -> None:
    model = Branched(6).eval()
    everything = set(name_observed(model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING)).values())

    names = name_observed(model, prepare(model, miniature.INPUT_SHAPE, scheme(engine=engine, fp32=(kept,))))
    assert len(names) > 3
    assert set(names.values()) <= everything


def test_a_module_that_stays_fp32_has_no_qconfig_and_the_others_have_one(network: nn.Module) -> None:
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme(fp32=("fc",)))

    assert prepared.fc.qconfig is None
    assert (prepared.conv1 if hasattr(prepared, "conv1") else prepared.conv).qconfig is not None


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Tanh, nn.Hardsigmoid])
def test_what_has_a_fixed_range_in_torch_is_fp32_and_gets_one_from_statistics(kind: type[nn.Module]) -> None:
    """torch would also clip what it reads to that range, where that is no output of an INT8 step, as here."""
    model = Network(lambda layer, x: layer(x.swapaxes(2, 3)), kind()).eval()
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)
    observers = {name: prepared.get_submodule(target) for target, name in name_observed(model, prepared).items()}

    assert list(observers) == ["x", "layer", "last", "mean", "fc"]
    assert all(isinstance(observer, RangeObserver) for observer in observers.values())


def swap_then_gate(_: nn.Module, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.swapaxes(2, 3))


def gate_halves(_: nn.Module, x: Tensor) -> Tensor:
    """A gated linear unit."""
    values, gates = x.chunk(2, 1)
    return torch.cat([values * gates.sigmoid(), gates], 1)


def flatten_then_squash(_: nn.Module, x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(2)).reshape(x.shape)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", [swap_then_gate, gate_halves, flatten_then_squash])
def test_what_sigmoid_and_tanh_read_is_not_clipped_to_what_they_return(
    body: Callable[[nn.Module, Tensor], Tensor], engine: Engine, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model = Network(body).eval()
    nn.init.normal_(model.conv.weight)

    assert fidelity(model, engine, inputs) > decibels(30, engine)


class Reading(nn.Module):
    """Flattens with `view`, which does not take values that lie channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_flattens_with_view_is_calibrated_and_runs(engine: Engine, inputs: list[Tensor]) -> None:
    torch.manual_seed(0)

    assert fidelity(Reading().eval(), engine, inputs) > decibels(35, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("body", "layer"),
    [
        (lambda layer, x: layer(x), nn.PReLU()),
        (lambda layer, x: layer(x), nn.PReLU(8)),
        (lambda layer, x: layer(x)[:, :, ::2, ::2], nn.ConvTranspose2d(8, 8, 2, stride=2)),
        (lambda layer, x: layer(x), nn.ConvTranspose2d(8, 8, 3, padding=1)),
        (lambda layer, x: F.tanh(layer(x)), nn.Linear(8, 8)),
        (lambda layer, x: F.leaky_relu(layer(x)), nn.Linear(8, 8)),
        (lambda layer, x: layer(x), nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
        (lambda layer, x: layer(x), nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU())),
        (lambda layer, x: layer(x), nn.Sequential(nn.Linear(8, 8), nn.ReLU())),
        (lambda layer, x: x + torch.ones(1, 8, 1, 1), None),
        (lambda layer, x: x * F.relu6(x + 3) / 6, None),
    ],
    ids=lambda value: None if value is None or not isinstance(value, nn.Module) else str(value).split("(")[0],
)
def test_what_torch_computes_wrongly_or_stumbles_over_is_right_in_the_end(
    body: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module | None, engine: Engine, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model = Network(body, layer)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    assert fidelity(model.eval(), engine, inputs) > decibels(30, engine)


class Again(nn.Module):
    """Runs one activation after each of its layers; the last of its runs has no INT8 reader."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act = act
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.last(self.act(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "observed"),
    [
        (nn.ReLU, ["first", "last"]),  # fused
        (nn.LeakyReLU, ["first", "act"]),  # INT8, then FP32
        *((kind, ["act"]) for kind in (nn.Hardswish, nn.ELU, nn.Sigmoid)),  # FP32, then INT8 values are needed
    ],
)
def test_each_call_of_a_module_is_int8_or_fp32_for_itself(
    kind: type[nn.Module], observed: list[str], engine: Engine, inputs: list[Tensor]
) -> None:
    """In the canonical form, since `convert_fx` replaces it by an INT8 module for all calls."""
    torch.manual_seed(0)
    model = canonicalize(Again(kind()), miniature.INPUT_SHAPE)
    prepared = prepare(model, miniature.INPUT_SHAPE, scheme(engine=engine, fp32=("fc",)))

    assert list(name_observed(model, prepared).values()) == ["x", *observed]
    assert fidelity(model, engine, inputs) > decibels(40, engine)


class Twice(nn.Module):
    """Runs a layer twice, with an activation after it the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.conv(x))).mean((2, 3))


@pytest.mark.parametrize("engine", ["x86", "onednn"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Twice(), "conv runs more than once and torch would fuse .* use a layer of its own for each run"),
        (Network(lambda layer, x: torch.add(x, F.relu(x), alpha=2)), "add: torch's INT8 addition ignores alpha; write"),
    ],
)
def test_a_network_that_torch_would_change_is_refused_in_one_line(
    model: nn.Module, message: str, engine: Engine
) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        prepare(model.eval(), miniature.INPUT_SHAPE, scheme(engine=engine))

    assert "\n" not in str(refusal.value)


def test_no_warning_of_torch_comes_through() -> None:
    """Warnings are errors here: of the deprecation, of observers without data, of options that its defaults set."""
    for engine in ENGINES:
        prepare(Branched(6).eval(), miniature.INPUT_SHAPE, scheme(engine=engine, reduce_range=True))
    with without_torch_warnings():
        torch.ao.quantization.HistogramObserver(reduce_range=True).calculate_qparams()


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
def test_the_patterns_of_onednn_are_for_networks_into_which_it_fuses_an_addition() -> None:
    fused, unfused = Branched(6).eval(), miniature.residual(6).eval()
    configs = [
        backend_config(prepare(model, miniature.INPUT_SHAPE, scheme(engine=engine)))
        for model, engine in ((fused, "onednn"), (unfused, "onednn"), (fused, "x86"))
    ]

    expected = [get_onednn_backend_config(), get_native_backend_config(), get_native_backend_config()]
    assert [config.to_dict().keys() for config in configs] == [config.to_dict().keys() for config in expected]
    assert [len(config.configs) for config in configs] == [len(config.configs) for config in expected]
    assert len(expected[0].configs) != len(expected[1].configs)


def test_observer_nodes_are_the_calls_of_observers(network: nn.Module) -> None:
    prepared = prepare(network, miniature.INPUT_SHAPE, EVERYTHING)
    names = {node.name for node in observer_nodes(prepared)}

    assert names == {node.name for node in prepared.graph.nodes if node.name.startswith("activation_post_process")}


class NormalizedAndActivated(nn.BatchNorm2d):
    """As timm has it: a normalization that checks its input and applies an activation of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "four dimensions")
        statistics = (
            (self.running_mean, self.running_var) if not self.training or self.track_running_stats else (None,) * 2
        )
        x = F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)
        return self.act(self.drop(x))


def test_a_batch_norm_that_applies_an_activation_is_folded_as_the_two_are_apart(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    together = miniature.vary(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), NormalizedAndActivated(8))).eval()
    norm = nn.BatchNorm2d(8).eval()
    norm.load_state_dict(together[1].state_dict())
    apart = nn.Sequential(together[0], norm, nn.ReLU())

    prepared, expected = (
        prepare(canonicalize(network, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, EVERYTHING)
        for network in (together, apart)
    )

    kinds, expected_kinds = ({type(each) for each in network.children()} for network in (prepared, expected))
    assert nn.BatchNorm2d not in {type(each) for each in prepared.modules()}
    assert kinds == expected_kinds
    assert torch.equal(prepared(inputs[0]), expected(inputs[0]))
