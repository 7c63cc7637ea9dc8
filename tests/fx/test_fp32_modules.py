import operator

import miniature
import pytest
import torch
from fresh_process import ENGINES, Branched, collect, convert_params
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision import models

from ptqflow.calib.statistics import Statistics
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.core.engines import Engine
from ptqflow.core.errors import ParamsError
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.fp32_modules import (
    find_heads,
    is_kept,
    is_kept_node,
    kept_modules,
    match_names,
    refuse_fused_steps,
)
from ptqflow.fx.graph import trace
from ptqflow.fx.layers import list_layers
from ptqflow.fx.prepare import EVERYTHING, prepare
from ptqflow.models.canonical import canonicalize

NAMES = ["conv1", "bn1", "layer1", "layer1.0", "layer1.0.conv1", "layer1.0.conv2", "layer10.0.conv1", "fc"]


class Wrapped(nn.Module):
    """An activation as a module of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(x)


class Everything(nn.Module):
    """Each layer between INT8 ones, where torch would run it on an INT8 kernel whatever the params say."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for i, layer in enumerate(LAYERS):
            self.add_module(f"layer{i}", layer())
            self.add_module(f"conv{i}", nn.Conv2d(8, 8, 3, padding=1))
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(len(LAYERS)):
            x = getattr(self, f"conv{i}")(getattr(self, f"layer{i}")(x))
        return self.fc(x.mean((2, 3)))


LAYERS = [
    nn.Hardswish,
    nn.LeakyReLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    lambda: nn.Softmax(1),
    nn.ReLU6,
    lambda: nn.LayerNorm(miniature.SIZE),
    lambda: nn.InstanceNorm2d(8),
    lambda: nn.MaxPool2d(3, 1, 1),
    lambda: nn.AvgPool2d(3, 1, 1),
    nn.Identity,
    nn.Dropout,
    Wrapped,
    lambda: nn.Sequential(nn.Hardswish(), nn.BatchNorm2d(8), nn.ReLU()),
    lambda: nn.Conv2d(8, 8, 3, padding=1),
]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["conv1"], ["conv1"]),
        (["layer1"], ["layer1"]),
        (["layer1.*"], ["layer1.0", "layer1.0.conv1", "layer1.0.conv2"]),
        (["*.conv1"], ["layer1.0.conv1", "layer10.0.conv1"]),
        (["layer?"], ["layer1"]),
        (["conv[0-9]", "fc"], ["conv1", "fc"]),
        (["fc", "conv1", "f*"], ["fc", "conv1"]),
    ],
)
def test_patterns_mean_what_they_mean_to_a_shell(patterns: list[str], expected: list[str]) -> None:
    assert match_names("convert.keep_fp32", patterns, NAMES) == expected


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layr1.0.conv1", "layer1.0.conv1, layer10.0.conv1, layer1.0.conv2"),
        ("Conv1", "conv1, bn1, layer1.0.conv1"),
        ("zzz.?", "conv1, bn1, layer1"),
    ],
)
def test_a_pattern_that_matches_nothing_is_answered_with_near_names(pattern: str, near: str) -> None:
    with pytest.raises(ParamsError, match=f"^convert.keep_fp32: '.*' matches nothing; near names: {near}$"):
        match_names("convert.keep_fp32", ["fc", pattern], NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("layer1", True), ("layer1.0.conv1", True), ("layer10.0.conv1", False), ("layer", False), ("fc", False)],
)
def test_what_is_in_a_kept_module_is_kept(name: str, expected: bool) -> None:
    assert is_kept(name, ["layer1", "other"]) is expected


def test_a_step_is_kept_where_the_module_that_calls_it_is() -> None:
    graph = trace(nn.Sequential(nn.Sequential(Wrapped(), nn.ReLU()), Wrapped()))

    kept = {node.name for node in graph.graph.nodes if is_kept_node(node, ["0"])}
    assert kept == {"hardswish", "_0_1"}


@pytest.mark.parametrize(
    ("patterns", "keeps_head", "expected"),
    [
        ([], False, ()),
        ([], True, ("fc",)),
        (["conv2"], True, ("conv2", "fc")),
        (["fc"], True, ("fc",)),
        (["gate", "gate.0"], False, ("gate",)),
        (["gate.*"], True, ("fc", "gate.0", "gate.1")),
        (["*"], True, ("act", "add", "avgpool", "fc", "flatten", "gate", "left", "mul", "relu", "right", "stem")),
    ],
)
def test_kept_modules_are_those_named_and_the_head_without_what_is_inside_others(
    patterns: list[str], keeps_head: bool, expected: tuple[str, ...]
) -> None:
    model = miniature.residual(6) if "conv2" in patterns else Branched(6)

    assert kept_modules(model, patterns, keeps_head) == expected


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v2", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("vgg11_bn", "classifier.6"),
        ("densenet121", "classifier"),
        ("efficientnet_b0", "classifier.1"),
        ("shufflenet_v2_x0_5", "fc"),
        ("convnext_tiny", "classifier.2"),
        ("swin_t", "head"),
    ],
)
def test_the_head_is_the_last_layer_with_weights(model: str, head: str) -> None:
    assert find_heads(models.get_model(model, weights=None, num_classes=7)) == [head]


class Scaled(nn.Module):
    """Ends in arithmetic after its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 8)
        self.head = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return operator.mul(F.log_softmax(self.head(self.body(x)).flatten(1), 1), 2)


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (miniature.residual(6), "fc"),
        (Scaled(), "head"),
        (nn.Sequential(nn.Conv2d(3, 6, 8), nn.ConvTranspose2d(6, 6, 1), nn.Flatten()), "1"),
        (nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), None),
    ],
)
def test_the_head_is_found_after_what_has_no_weights(model: nn.Module, head: str | None) -> None:
    assert find_heads(model) == ([head] if head else [])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["bn1"], "convert.keep_fp32: bn1 is fused into conv1; name that layer too"),
        (["bn2", "conv1"], "convert.keep_fp32: bn2 is fused into conv2; name that layer too"),
        (["relu"], "convert.keep_fp32: relu is fused into conv1; name that layer too"),
    ],
)
def test_a_part_of_a_layer_cannot_be_kept_alone(kept: list[str], message: str) -> None:
    model = miniature.residual(6).eval()
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)

    with pytest.raises(ParamsError, match=f"^{message}$"):
        refuse_fused_steps(model, prepared, kept)


@pytest.mark.parametrize("kept", [[], ["conv1"], ["conv1", "bn1"], ["conv1", "bn1", "relu"], ["maxpool"], ["fc"]])
def test_a_whole_layer_can_be_kept_with_or_without_its_parts(kept: list[str]) -> None:
    model = miniature.residual(6).eval()

    refuse_fused_steps(model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING), kept)


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
def test_what_onednn_fuses_with_an_addition_cannot_be_kept_alone() -> None:
    model = Branched(6).eval()
    refuse_fused_steps(model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING), ["relu"])

    prepared = prepare(
        model, miniature.INPUT_SHAPE, EVERYTHING.model_copy(update={"engine": "onednn", "fuse_additions": True})
    )
    with pytest.raises(ParamsError, match="relu is fused into left; name that layer too"):
        refuse_fused_steps(model, prepared, ["relu"])


class Precisions(fx.Interpreter):
    """Runs a converted network and notes what each step takes: INT8 values also where it dequantizes them itself."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.taken: dict[str, set[torch.dtype]] = {}
        self.returned: dict[fx.Node, torch.dtype] = {}

    def run_node(self, n: fx.Node) -> object:
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        sources = [
            node.all_input_nodes[0] if isinstance(layer, FloatOutput) and node.target == "dequantize" else node
            for node in n.all_input_nodes
        ]
        self.taken[n.name] = {self.returned[node] for node in sources if node in self.returned}
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.returned[n] = result.dtype
        return result


def taken_by(quantized: Quantized, image: Tensor) -> dict[str, set[torch.dtype]]:
    interpreter = Precisions(quantized.converted)
    with torch.inference_mode():
        interpreter.run(image)
    return interpreter.taken


@pytest.fixture(scope="module")
def everything(inputs: list[Tensor]) -> tuple[nn.Module, Statistics]:
    torch.manual_seed(0)
    model = miniature.vary(Everything()).eval()
    return model, collect(model, inputs)


def test_of_that_only_what_every_runtime_computes_in_float_is_fp32_where_nothing_is_kept(
    everything: tuple[nn.Module, Statistics],
) -> None:
    """Else the next test proves nothing."""
    model, statistics = everything
    quantized = quantize(model, miniature.card(), convert_params(), statistics, miniature.split(40))

    layers = list_layers(model, quantized.converted)
    fp32 = {layer.name: layer.note for layer in layers if layer.precision == "fp32"}
    assert fp32.pop("fc") == "kept FP32"
    assert fp32.pop("mean") == "between FP32 steps"
    inside, in_float = "computes in float inside, on INT8 values too", "every runtime computes it in float"
    assert fp32 == {
        **dict.fromkeys(("layer6", "layer8", "layer9"), inside),
        **dict.fromkeys(("layer0", "layer2", "layer3", "layer4", "layer5", "hardswish", "layer15.0"), in_float),
        "layer15.1": "between FP32 steps",
    }


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_a_kept_module_runs_fp32_between_int8_ones_and_the_list_says_so(
    index: int, everything: tuple[nn.Module, Statistics], inputs: list[Tensor]
) -> None:
    model, statistics = everything
    name = f"layer{index}"
    kept = {node.name for node in trace(model).graph.nodes if is_kept_node(node, [name])}

    params = convert_params(keep_fp32=[name])
    quantized = quantize(model, miniature.card(), params, statistics, miniature.split(40))

    taken = taken_by(quantized, inputs[0])
    assert kept & taken.keys()  # the others are fused into them
    assert all(taken[node] == {torch.float32} for node in kept & taken.keys())
    assert taken[f"conv{index}"] == {torch.quint8}
    layers = list_layers(model, quantized.converted)
    listed = {layer.name.replace(".", "_"): layer.precision for layer in layers if layer.note == "kept FP32"}
    computes_nothing = LAYERS[index] in (nn.Identity, nn.Dropout)
    assert listed == {"fc": "fp32"} | ({} if computes_nothing else dict.fromkeys(kept & taken.keys(), "fp32"))
    with torch.inference_mode():
        ratio = sqnr_db(quantized.converted(inputs[0]), model(inputs[0]))
    assert ratio
    assert ratio > 15  # through all these layers


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kept", ["left", "right", "gate", "gate.0", "gate.1", "act", "avgpool", "stem"])
def test_any_module_can_be_kept_on_any_engine_with_the_same_statistics(
    kept: str, engine: Engine, inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model, images = Branched(6).eval(), torch.cat(inputs)
    params = convert_params(engine=engine, keep_fp32=[kept])

    quantized = quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))

    assert quantized.scheme.fp32 == tuple(sorted([kept, "fc"]))
    layers = list_layers(model, quantized.converted)
    assert {layer.note for layer in layers if is_kept(layer.name, [kept])} == {"kept FP32"}
    with torch.inference_mode():
        ratio = sqnr_db(quantized.converted(images), model(images))
    assert ratio
    assert ratio > 30


class Typed(nn.Module):
    """Additions, concatenations and activations, as modules and as functions; a module has the name of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.act, self.relu, self.block = nn.GELU(), nn.ReLU(), nn.Sequential(Wrapped(), nn.ReLU())
        self.fourth, self.fc = nn.Conv2d(16, 8, 1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(x) + self.act(x)
        x = self.relu(torch.add(self.third(x), x))
        x = self.block(self.fourth(torch.cat([x, F.gelu(x)], 1)))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("add", ("add", "add_1")),
        ("add_1", ("add_1",)),
        ("add*", ("add", "add_1")),
        ("cat", ("cat",)),
        ("mean", ("mean",)),
        ("Conv2d", ("first", "fourth", "second", "third")),
        ("conv2d", ("first", "fourth", "second", "third")),
        ("linear", ("fc",)),
        ("GELU", ("act", "gelu")),
        ("gelu", ("act", "gelu")),
        ("Wrapped", ("block.0",)),
        ("relu", ("relu",)),  # the module alone
        ("ReLU", ("block.1", "relu")),
    ],
)
def test_a_type_stands_for_all_steps_of_it_and_the_path_of_a_module_for_that_alone(
    pattern: str, expected: tuple[str, ...]
) -> None:
    model = canonicalize(Typed(), miniature.INPUT_SHAPE)
    assert kept_modules(model, [pattern], keeps_head=False) == expected


def test_names_that_are_given_besides_patterns_are_no_types() -> None:
    """The accuracy budget keeps a single addition."""
    model = canonicalize(Typed(), miniature.INPUT_SHAPE)
    assert kept_modules(model, [], keeps_head=False, also=["add"]) == ("add",)


@pytest.mark.parametrize(
    ("pattern", "near"), [("gelu6", "gelu"), ("ad", "add, add_1"), ("Conv3d", "Conv2d"), ("LayerNorm", "")]
)
def test_a_type_that_the_network_lacks_is_answered_with_near_names_and_types(pattern: str, near: str) -> None:
    model = canonicalize(Typed(), miniature.INPUT_SHAPE)
    with pytest.raises(ParamsError) as error:
        kept_modules(model, [pattern], keeps_head=False)
    assert str(error.value).startswith(f"convert.keep_fp32: '{pattern}' matches nothing; near names: {near}")
    assert "\n" not in str(error.value)


@pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")
def test_additions_that_onednn_fuses_cannot_be_kept_alone(inputs: list[Tensor]) -> None:
    model = Branched(6).eval()
    params = convert_params(engine="onednn", fuse_additions=True, keep_fp32=["add"])

    with pytest.raises(ParamsError) as error:
        quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))
    assert str(error.value) == (
        "convert.keep_fp32: add is fused into left; name that layer too, or set convert.fuse_additions=false"
    )


def test_every_type_of_a_network_with_blocks_can_be_kept(inputs: list[Tensor]) -> None:
    """Also where steps are fused into kept layers, whose paths have several parts."""
    model = canonicalize(models.resnet18(num_classes=6).eval(), miniature.INPUT_SHAPE)
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)

    for kind in ("Conv2d", "BasicBlock", "add", "MaxPool2d", "Linear"):
        refuse_fused_steps(model, prepared, kept_modules(model, [kind], keeps_head=False))
    with pytest.raises(ParamsError, match=r"^convert\.keep_fp32: bn1 is fused into conv1; name that layer too$"):
        refuse_fused_steps(model, prepared, kept_modules(model, ["BatchNorm2d"], keeps_head=False))
