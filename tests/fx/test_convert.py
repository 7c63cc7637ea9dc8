import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import miniature
import numpy as np
import pytest
import torch
from fresh_process import ENGINES, SCHEMES, Branched, collect, convert_params, decibels
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d, LinearReLU
from torch.ao.quantization import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
    default_weight_observer,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.backend_config import BackendConfig, get_onednn_backend_config
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx import GraphModule, symbolic_trace
from torch.nn import functional as F

from ptqflow.calib.statistics import Statistics
from ptqflow.convert.qparams import set_ranges
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.convert.weight_scales import mse_scales
from ptqflow.core.engines import Engine
from ptqflow.core.errors import EngineError, ModelError
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.convert import MissingKernelError, convert
from ptqflow.fx.fused_adds import fused_additions
from ptqflow.fx.graph import observer_nodes
from ptqflow.fx.layers import list_layers
from ptqflow.fx.prepare import EVERYTHING, Scheme, fp32_reason, prepare, without_torch_warnings
from ptqflow.models.canonical import canonicalize

METHODS = {"minmax": MinMaxObserver, "moving_average": MovingAverageMinMaxObserver}


class Mixed(nn.Module):
    """Pools, concatenates, gates; shares layers; has activations with INT8 kernels, with fixed ranges, and without."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.norm = nn.BatchNorm2d(16)
        self.gate = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Sigmoid())
        self.drop = nn.Dropout()
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.deep(x) + x, self.pool(F.gelu(x))], 1)
        x = F.leaky_relu(self.norm(x) * self.gate(x), 0.1)
        return self.fc(torch.flatten(torch.mean(self.drop(x), (2, 3), keepdim=True), 1))


class Between(nn.Module):
    """What a function makes of the output of an INT8 layer for the next one."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.LazyLinear(6)
        self(torch.zeros(1, 3, miniature.SIZE, miniature.SIZE))  # makes the last layer's weights

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(self.body(self.first(x)), 1))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "residual": miniature.residual,
    "normed": miniature.normed,
    "branched": Branched,
    "mixed": lambda num_classes: miniature.vary(Mixed(num_classes)),
}
only_residual = pytest.mark.parametrize("function", ["residual"], indirect=True)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](len(miniature.CLASSES)).eval()


def run(model: nn.Module, images: Tensor) -> Tensor:
    with without_torch_warnings(), torch.inference_mode():  # of ranges that torch makes a concatenation convert
        return model(images)


def plain_torch(
    model: nn.Module,
    engine: str,
    batches: Iterable[Tensor],
    *,
    reduce_range: bool,
    observer: type[MinMaxObserver] = MinMaxObserver,
    per_channel: bool = True,
    like: Quantized | None = None,
    backend: BackendConfig | None = None,
) -> nn.Module:
    """The recipe in torch's own words: the engine's default mapping with other observers.

    What is FP32 in `like` is so here, and a layer whose output is not observed there is torch's reference module here.
    Calibration runs channels last, as `calib` does it, and the INT8 network does not: the other way, FP32 steps round
    otherwise.
    """
    with without_torch_warnings():
        torch.backends.quantized.engine = engine
        mapping = get_default_qconfig_mapping(engine)
        activation = observer.with_args(reduce_range=reduce_range)
        weight = default_per_channel_weight_observer if per_channel else default_weight_observer
        mapping.set_global(QConfig(activation=activation, weight=weight))
        for kind, qconfig in mapping.object_type_qconfigs.items():
            if isinstance(qconfig.activation(), HistogramObserver):
                mapping.set_object_type(kind, qconfig._replace(activation=activation))
        if like:
            leave_out(mapping, model, like)
        example = (torch.zeros(1, 3, miniature.SIZE, miniature.SIZE),)
        prepared = prepare_fx(copy.deepcopy(model), mapping, example, backend_config=backend)
        if like:
            remove_observers(prepared, like.prepared)
        prepared.to(memory_format=torch.channels_last)
        for batch in batches:
            run(prepared, batch.contiguous(memory_format=torch.channels_last))
        return convert_fx(prepared, backend_config=backend).to(memory_format=torch.contiguous_format)


def remove_observers(prepared: GraphModule, like: GraphModule) -> None:
    """Remove the observers of the outputs of layers that have none in another prepared network."""
    kinds = (nn.Conv2d, nn.Linear, ConvReLU2d, LinearReLU)
    observed = {node.all_input_nodes[0].name for node in observer_nodes(like)}
    for node in prepared.graph.nodes:
        source = node.all_input_nodes[0] if node.name.startswith("activation_post_process") else None
        if source and source.op == "call_module" and source.name not in observed:
            assert isinstance(prepared.get_submodule(str(source.target)), kinds)
            node.replace_all_uses_with(source)
            prepared.graph.erase_node(node)
    prepared.recompile()


def leave_out(mapping: QConfigMapping, model: nn.Module, quantized: Quantized) -> None:
    """Leave out of a mapping what stays FP32 by choice: modules by name, functions by their order."""
    fp32 = {node.name for node in quantized.prepared.graph.nodes if fp32_reason(node)}
    order: Counter[Any] = Counter()
    for node in symbolic_trace(model).graph.nodes:
        if node.op == "call_module" and node.name in fp32:
            mapping.set_module_name(str(node.target), None)
        elif node.op == "call_function":
            if node.name in fp32:
                mapping.set_module_name_object_type_order("", node.target, order[node.target], None)
            order[node.target] += 1


def ours(model: nn.Module, statistics: Statistics | None, **changes: object) -> Quantized:
    params = convert_params(**{"round_biases": False} | changes)
    return quantize(model, miniature.card(), params, statistics, miniature.split(40))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
@pytest.mark.parametrize(("name", "head"), [("residual", "int8"), ("normed", "int8"), ("mixed", "fp32")])
def test_logits_equal_those_of_plain_torch_bit_for_bit(
    name: str, head: str, engine: Engine, reduce_range: bool, method: str, inputs: list[Tensor]
) -> None:
    """For every engine and choice from one collection of statistics."""
    model, images = make(name), torch.cat(inputs)
    activation = {"method": method, "reduce_range": reduce_range}
    quantized = ours(model, collect(model, inputs[:4]), engine=engine, head=head, activation=activation)

    expected = plain_torch(
        model,
        engine,
        inputs[:4],
        reduce_range=reduce_range,
        observer=METHODS[method],
        like=quantized,
        backend=get_onednn_backend_config() if engine == "onednn" and name == "mixed" else None,  # fuses an addition
    )
    logits, fp32 = run(quantized.converted, images), run(model, images)
    assert torch.equal(logits, run(expected, images))
    assert not torch.equal(logits, fp32)
    ratio = sqnr_db(logits, fp32)
    assert ratio
    assert ratio > 15


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reduce_range", [reduced for engine, reduced in SCHEMES if engine == "onednn"])
def test_with_a_fused_addition_logits_equal_those_of_plain_torch_with_the_patterns_of_onednn(
    reduce_range: bool, per_channel: bool, method: str, inputs: list[Tensor]
) -> None:
    model, images = make("branched"), torch.cat(inputs)
    quantized = ours(
        model,
        collect(model, inputs[:4]),
        engine="onednn",
        head="int8",
        activation={"method": method, "reduce_range": reduce_range},
        weight={"per_channel": per_channel},
    )

    expected = plain_torch(
        model,
        "onednn",
        inputs[:4],
        reduce_range=reduce_range,
        observer=METHODS[method],
        per_channel=per_channel,
        like=quantized,
        backend=get_onednn_backend_config(),
    )
    assert fused_additions(quantized.prepared)
    assert "ConvAddReLU2d" in {type(module).__name__ for module in expected.modules()}
    assert torch.equal(run(quantized.converted, images), run(expected, images))


@pytest.mark.parametrize("kept", [("conv2",), ("conv1", "conv2"), ("maxpool",), ("fc",)])
@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
def test_what_stays_fp32_does_so_as_in_plain_torch(
    engine: Engine, reduce_range: bool, kept: tuple[str, ...], inputs: list[Tensor]
) -> None:
    model, images = make("residual"), torch.cat(inputs)
    activation = {"method": "minmax", "reduce_range": reduce_range}
    statistics = collect(model, inputs[:4])
    quantized = ours(model, statistics, engine=engine, head="int8", keep_fp32=list(kept), activation=activation)

    expected = plain_torch(model, engine, inputs[:4], reduce_range=reduce_range, like=quantized)
    whole = plain_torch(model, engine, inputs[:4], reduce_range=reduce_range)
    assert torch.equal(run(quantized.converted, images), run(expected, images))
    assert kept == ("maxpool",) or not torch.equal(run(quantized.converted, images), run(whole, images))


@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
@pytest.mark.parametrize("name", ["residual", "normed"])
def test_without_statistics_conversion_follows_preparation_at_once(
    name: str, engine: Engine, reduce_range: bool, inputs: list[Tensor]
) -> None:
    model, images = make(name), torch.cat(inputs)
    control = ours(model, None, engine=engine, head="int8", activation={"reduce_range": reduce_range})

    expected = plain_torch(model, engine, [], reduce_range=reduce_range, like=control)
    assert torch.equal(run(control.converted, images), run(expected, images))
    assert control.qparams == {}
    scales = {name: value for name, value in control.converted.state_dict().items() if name.endswith("_scale_0")}
    assert scales
    assert all(scale == 1 for scale in scales.values())


@only_residual
@pytest.mark.parametrize("engine", ENGINES)
def test_calibration_changes_what_comes_out(
    engine: Engine, network: nn.Module, statistics: Statistics, inputs: list[Tensor]
) -> None:
    fp32 = run(network, inputs[4])

    control, calibrated = (run(ours(network, seen, engine=engine).converted, inputs[4]) for seen in (None, statistics))
    assert (calibrated - fp32).abs().mean() < (control - fp32).abs().mean() / 3


@pytest.mark.parametrize("bias_correction", [False, True])
def test_the_network_and_the_statistics_are_left_unchanged(
    network: nn.Module, statistics: Statistics, bias_correction: bool
) -> None:
    before = copy.deepcopy(network.state_dict())
    seen = copy.deepcopy(statistics)

    quantized = ours(network, statistics, bias_correction=bias_correction)

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    np.testing.assert_equal(dataclasses.asdict(statistics), dataclasses.asdict(seen))
    assert "activation_post_process" in str(quantized.prepared.graph)


@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
@pytest.mark.parametrize("fp32", [(), ("fc",)])
def test_the_prepared_network_is_left_unchanged_and_can_be_converted_again(
    network: nn.Module,
    statistics: Statistics,
    inputs: list[Tensor],
    engine: Engine,
    reduce_range: bool,
    fp32: tuple[str, ...],
) -> None:
    changes = {"engine": engine, "reduce_range": reduce_range, "fp32": fp32, "fuse_additions": True}
    scheme = EVERYTHING.model_copy(update=changes)
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme)
    graph, state = str(prepared.graph), copy.deepcopy(prepared.state_dict())
    control = convert(prepared, scheme, miniature.INPUT_SHAPE)

    assert str(prepared.graph) == graph
    assert prepared.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in prepared.state_dict().items())
    set_ranges(network, prepared, scheme, statistics, convert_params(engine=engine, head="int8"))
    first, second = (convert(prepared, scheme, miniature.INPUT_SHAPE) for _ in range(2))
    assert torch.equal(run(first, inputs[4]), run(second, inputs[4]))
    assert not torch.equal(run(first, inputs[4]), run(control, inputs[4]))


@only_residual
@pytest.mark.parametrize("per_channel", [False, True])
def test_int8_weights_have_the_scales_of_least_squared_error(
    network: nn.Module, statistics: Statistics, per_channel: bool
) -> None:
    quantized = ours(network, statistics, weight={"method": "mse", "per_channel": per_channel})

    weight, layer = quantized.prepared.conv2.weight.detach(), quantized.converted.conv2.weight()
    expected = mse_scales(weight.flatten(1) if per_channel else weight.reshape(1, -1))
    found = layer.q_per_channel_scales().float() if per_channel else torch.tensor([layer.q_scale()])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [nn.ReLU6, nn.Hardtanh, lambda: nn.ReLU6(inplace=True)])
def test_clamps_are_right_on_every_engine(engine: Engine, kind: Callable[[], nn.Module], inputs: list[Tensor]) -> None:
    """QNNPACK's mixes up pixels where values lie channels last, as they do after a convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kind(), nn.Conv2d(8, 8, 3), kind(), nn.Flatten()).eval()
    nn.init.normal_(model[0].weight)
    images = torch.cat(inputs)

    ratio = sqnr_db(run(ours(model, collect(model, inputs), engine=engine).converted, images), run(model, images))
    assert ratio
    assert ratio > 30


@only_residual
def test_an_engine_that_the_machine_lacks_is_refused(network: nn.Module) -> None:
    scheme = Scheme.model_construct(**EVERYTHING.model_dump() | {"engine": "abacus"})

    with pytest.raises(EngineError, match=r"convert.engine=abacus is not available"):
        convert(prepare(network, miniature.INPUT_SHAPE, EVERYTHING), scheme, miniature.INPUT_SHAPE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("interpolate", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
        ("mean", lambda x: F.max_pool2d(x, miniature.SIZE).mean((2, 3))),
    ],
    ids=["bicubic interpolation", "mean over 1x1 pixels"],
)
def test_a_step_without_a_kernel_for_how_it_is_used_is_named(
    step: str, body: Callable[[Tensor], Tensor], engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    model, image = Between(body).eval(), torch.ones(2, 3, miniature.SIZE, miniature.SIZE)
    scheme = EVERYTHING.model_copy(update={"engine": engine})
    prepared = prepare(model, miniature.INPUT_SHAPE, scheme)
    try:
        expected = run(plain_torch(model, engine, [], reduce_range=False), image)
    except (RuntimeError, NotImplementedError):
        expected = None
    capfd.readouterr()

    if expected is None:
        message = rf"torch has no INT8 kernel on {engine} for how {step} is used \(.*\); name it in convert.keep_fp32$"
        with pytest.raises(MissingKernelError, match=message) as refusal:
            convert(prepared, scheme, miniature.INPUT_SHAPE)
        assert refusal.value.step == step
        assert "\n" not in str(refusal.value)
        assert capfd.readouterr().err == ""
        kept = scheme.model_copy(update={"fp32": (step,)})  # the remedy
        assert convert(prepare(model, miniature.INPUT_SHAPE, kept), kept, miniature.INPUT_SHAPE)(image).isfinite().all()
    else:
        assert torch.equal(run(convert(prepared, scheme, miniature.INPUT_SHAPE), image), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_fp32_step_that_cannot_take_the_images_is_named(engine: Engine) -> None:
    scheme = EVERYTHING.model_copy(update={"engine": engine, "fp32": ("last",)})
    prepared = prepare(Between(F.relu).eval(), miniature.INPUT_SHAPE, scheme)

    message = (
        rf"cannot take images of 16x16 on {engine}: last raises RuntimeError \(mat1 and mat2 shapes .*\); name it in"
    )
    with pytest.raises(ModelError, match=message) as refusal:
        convert(prepared, scheme, (3, 2 * miniature.SIZE, 2 * miniature.SIZE))
    assert type(refusal.value) is ModelError
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_torch_cannot_convert_is_refused_in_one_line_and_runs_with_the_step_kept_fp32(
    engine: Engine, inputs: list[Tensor]
) -> None:
    model = Between(lambda x: torch.add(x, other=F.relu(x))).eval()

    with pytest.raises(ModelError, match=r"torch cannot convert the network to INT8 \(.*convert.keep_fp32") as refusal:
        ours(model, None, engine=engine, head="int8")
    assert "\n" not in str(refusal.value)
    logits = run(
        ours(model, collect(model, inputs), engine=engine, head="int8", keep_fp32=["add"]).converted, inputs[0]
    )
    ratio = sqnr_db(logits, run(model, inputs[0]))
    assert ratio
    assert ratio > decibels(30, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(3, 8, (3, 5), padding="same"),
    ],
    ids=["circular padding", "padding in a word"],
)
def test_a_layer_that_torch_cannot_convert_as_it_is_written_runs_on_int8_in_its_canonical_form(
    make_layer: Callable[[], nn.Module], engine: Engine, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    written = nn.Sequential(nn.Conv2d(3, 3, 1), make_layer(), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    with pytest.raises(ModelError, match=r"convert\.keep_fp32"):
        ours(written, None, engine=engine, head="int8")
    model = canonicalize(written, miniature.INPUT_SHAPE)

    quantized = ours(model, collect(model, inputs), engine=engine, head="int8")
    layers = {layer.name: layer.precision for layer in list_layers(model, quantized.converted)}
    assert layers["1"] == "int8"
    ratio = sqnr_db(run(quantized.converted, inputs[0]), run(written, inputs[0]))
    assert ratio
    assert ratio > decibels(30, engine)
