import copy
from collections import defaultdict
from collections.abc import Callable

import miniature
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import fuse_fx
from torch.fx import GraphModule
from torch.nn import functional as F

from ptqflow.core.engines import available_engines
from ptqflow.fx.fused_adds import fused_additions
from ptqflow.fx.graph import (
    fused_steps,
    is_clamp,
    name_observed,
    observer_nodes,
    only_clamped,
    trace,
    unevenly_fused,
    weighted_modules,
)
from ptqflow.fx.prepare import EVERYTHING, prepare

ONEDNN = EVERYTHING.model_copy(update={"engine": "onednn", "fuse_additions": True})
needs_onednn = pytest.mark.skipif("onednn" not in available_engines(), reason="onednn is not available")


class Reusing(nn.Module):
    """What people write: one ReLU for all, a layer that runs twice, functions of torch between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        y = self.relu(self.twice(x))
        y = self.relu(self.twice(y))
        y = F.relu(y + x)
        z = self.pool(torch.cat([y, x], 1))
        return self.head(z + self.sigmoid(z))


REUSING: dict[str, tuple[str, int]] = {  # the module and its call; without: a function's output
    "conv": ("relu", 0),
    "twice": ("relu", 1),
    "twice:1": ("relu", 2),
    "pool": ("pool", 0),
    "sigmoid": ("sigmoid", 0),
    "head.0": ("head.0", 0),
    "head.1": ("head.1", 0),
}


class Downsampling(nn.Module):
    """A ResNet's block that halves the image, and one that does not; the second addition has no ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.downsample = nn.Sequential(nn.Conv2d(8, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv4 = nn.Conv2d(8, 8, 3, padding=1)
        self.sum = nn.Identity()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        y = self.relu(y)
        y = y + self.conv4(F.relu(self.conv3(y)))
        return self.fc(self.sum(y).mean((2, 3)))


DOWNSAMPLING = {
    "stem": ("stem", 0),
    "conv1": ("relu", 0),
    "conv2": ("bn2", 0),
    "downsample.0": ("downsample.1", 0),
    "relu": ("relu", 1),
    "conv4": ("conv4", 0),
    "add_1": ("sum", 0),
    "sum": ("sum", 0),
    "fc": ("fc", 0),
}


class Activations(nn.Module):
    """A convolution with something after it."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.after = after
        self.last = nn.Conv2d(8, 6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.last(self.after(self.conv(x))), 1)


class Constant(nn.Module):
    """Adds what torch.fx takes for a constant; behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.dropped = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + torch.ones(1, 8, 1, 1)
        if self.training:
            x = self.dropped(x)
        return self.fc((x + torch.full((1, 8, 1, 1), 2.0)).mean((2, 3)))


class Shared(nn.Module):
    """Runs one convolution twice, each time with something else after it."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv(self.stem(x)))
        return self.second(self.conv(x)).mean((2, 3))


def make(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return miniature.vary(model).eval()


def given_by_modules(model: nn.Module, image: Tensor) -> dict[tuple[str, int], Tensor]:
    """What each module of the plain network returns in each of its calls."""
    given: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = defaultdict(int)

    def record(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            given[name, calls[name]] = output.clone()
            calls[name] += 1

        return hook

    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    with torch.inference_mode():
        model(image)
    return given


def given_to_observers(prepared: GraphModule, image: Tensor) -> dict[str, Tensor]:
    """What each observer sees, by the name of its node."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
        return lambda _, inputs, __: seen.update({name: inputs[0].clone()})

    for node in observer_nodes(prepared):
        observer = copy.deepcopy(prepared.get_submodule(str(node.target)))  # which several tensors may share
        setattr(prepared, str(node.target), observer)
        observer.register_forward_hook(record(str(node.target)))
    with torch.inference_mode():
        prepared(image)
    return seen


def assert_names_identify_the_tensors(
    model: nn.Module, prepared: GraphModule, given_by: dict[str, tuple[str, int]], image: Tensor
) -> None:
    names = name_observed(model, prepared)
    given, seen = given_by_modules(model, image), given_to_observers(prepared, image)

    assert len(set(names.values())) == len(names)
    checked = {name for target, name in names.items() if name in given_by}
    for target, name in names.items():
        if name in given_by:
            torch.testing.assert_close(seen[target], given[given_by[name]])
    assert len(checked) > 4


def test_a_tensor_bears_the_name_of_the_layer_whose_output_it_is_or_of_the_function(inputs: list[Tensor]) -> None:
    model = make(Reusing())
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)

    assert list(name_observed(model, prepared).values()) == [
        *("x", "conv", "twice", "twice:1", "relu_3", "cat", "pool", "sigmoid", "add_1", "head.0", "head.1")
    ]
    assert_names_identify_the_tensors(model, prepared, REUSING, inputs[0])


def test_a_downsampling_convolution_keeps_its_own_name(inputs: list[Tensor]) -> None:
    model = make(Downsampling())
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)

    assert list(name_observed(model, prepared).values()) == [
        *("x", "stem", "conv1", "conv2", "downsample.0", "relu", "conv3", "conv4", "add_1", "sum", "mean", "fc")
    ]
    assert_names_identify_the_tensors(model, prepared, DOWNSAMPLING, inputs[0])


@needs_onednn
def test_where_an_addition_is_fused_the_sum_has_the_name_that_it_has_without(inputs: list[Tensor]) -> None:
    model = make(Downsampling())
    prepared = prepare(model, miniature.INPUT_SHAPE, ONEDNN)

    assert [str(node.target) for node in fused_additions(prepared)] == ["conv2", "conv4"]
    assert list(name_observed(model, prepared).values()) == [
        *("x", "stem", "conv1", "downsample.0", "relu", "conv3", "add_1", "sum", "mean", "fc")
    ]
    assert_names_identify_the_tensors(model, prepared, DOWNSAMPLING, inputs[0])


@pytest.mark.parametrize("training", [False, True])
def test_a_network_with_constants_and_another_course_in_training_is_named_and_stays_unchanged(training: bool) -> None:
    model = Constant().train(training)
    before = set(vars(model))

    names = [list(name_observed(model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING)).values()) for _ in range(2)]

    assert names[0] == names[1] == ["x", "conv", "_tensor_constant0", "add", "_tensor_constant1", "add_1", "mean", "fc"]
    assert set(vars(model)) == before
    assert all(module.training is training for module in model.modules())


def test_an_unused_or_empty_network_has_no_names() -> None:
    model = nn.Sequential(nn.GELU())

    assert name_observed(model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING)) == {}


class Other(nn.Module):
    """Lets what goes into a clamp also go elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x) + x


@pytest.mark.parametrize(
    ("after", "clamped"),
    [
        (nn.ReLU6(), ["conv"]),
        (nn.ReLU6(inplace=True), ["conv"]),
        (nn.Hardtanh(-0.3, 0.2), ["conv"]),
        (F.relu6, ["conv"]),
        (F.hardtanh, ["conv"]),
        (lambda x: torch.clamp(x, 0, 1), ["conv"]),
        (lambda x: x.clamp(0, 1), ["conv"]),
        (nn.Sequential(nn.MaxPool2d(1), nn.ReLU()), ["after.0"]),
        (nn.Sequential(nn.MaxPool2d(1), nn.ReLU6(), nn.ReLU6()), ["after.0", "after.1"]),
        (lambda x: F.relu(F.max_pool2d(x, 1)), ["max_pool2d"]),
        (nn.ReLU(), []),
        (nn.LeakyReLU(), []),
        (nn.Hardswish(), []),
        (nn.Identity(), []),
        (Other(), []),
    ],
)
def test_a_tensor_is_only_clamped_where_all_that_reads_it_cuts_it_off(
    after: Callable[[Tensor], Tensor], clamped: list[str]
) -> None:
    model = make(Activations(after))
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)
    names = name_observed(model, prepared)

    assert sorted(names[target] for target in only_clamped(prepared)) == clamped


def test_a_clamp_is_what_has_two_ends() -> None:
    graph = trace(
        nn.Sequential(nn.ReLU6(), nn.Hardtanh(), nn.ReLU(), nn.Sigmoid(), Activations(F.relu6), Activations(F.relu))
    )

    assert [node.name for node in graph.graph.nodes if is_clamp(node, graph)] == ["_0", "_1", "relu6"]


def steps_by_node(model: nn.Module, graph: GraphModule) -> dict[str, list[str]]:
    return {node.name: [step.name for step in steps] for node, steps in fused_steps(trace(model), graph).items()}


def test_a_fused_layer_stands_for_its_steps() -> None:
    model = make(Downsampling())

    assert steps_by_node(model, fuse_fx(copy.deepcopy(model))) == {
        "x": ["x"],
        "stem": ["stem"],
        "conv1": ["conv1", "bn1", "relu"],
        "conv2": ["conv2", "bn2"],
        "downsample_0": ["downsample_0", "downsample_1"],
        "add": ["add"],
        "relu_1": ["relu_1"],
        "conv3": ["conv3", "relu_2"],
        "conv4": ["conv4"],
        "add_1": ["add_1"],
        "sum_1": ["sum_1"],
        "mean": ["mean"],
        "fc": ["fc"],
        "output": ["output"],
    }


@needs_onednn
def test_a_layer_with_a_fused_addition_stands_for_that_too() -> None:
    model = make(Downsampling())
    steps = steps_by_node(model, prepare(model, miniature.INPUT_SHAPE, ONEDNN))

    assert steps["conv2"] == ["conv2", "bn2", "add", "relu_1"]
    assert steps["conv4"] == ["conv4", "add_1"]
    assert steps["downsample_0"] == ["downsample_0", "downsample_1"]


def torch_miscomputes(model: nn.Module) -> bool:
    image = torch.randn(2, 3, miniature.SIZE, miniature.SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return not torch.allclose(fuse_fx(copy.deepcopy(model))(image), model(image), atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "layer"),
    [
        (nn.ReLU(), nn.Identity(), "conv"),
        (nn.Identity(), nn.ReLU(), "conv"),
        (nn.BatchNorm2d(8), nn.Identity(), "conv"),
        (nn.BatchNorm2d(8), nn.BatchNorm2d(8), "conv"),
        (nn.Identity(), nn.Identity(), None),
        (nn.GELU(), nn.MaxPool2d(2), None),
    ],
)
def test_a_layer_is_unevenly_fused_where_torch_then_computes_something_else(
    first: nn.Module, second: nn.Module, layer: str | None
) -> None:
    model = make(Shared(first, second))

    assert torch_miscomputes(model) is (layer is not None)
    assert unevenly_fused(model, fuse_fx(copy.deepcopy(model))) == layer


def test_a_layer_with_the_same_layers_after_each_of_its_runs_is_evenly_fused() -> None:
    same = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
    model = make(Shared(same, same))

    assert unevenly_fused(model, fuse_fx(copy.deepcopy(model))) is None
    assert not torch_miscomputes(model)


def test_weighted_modules_are_the_convolutions_and_linear_layers_without_what_is_fused() -> None:
    model = make(Downsampling())
    found = weighted_modules(prepare(model, miniature.INPUT_SHAPE, EVERYTHING))

    assert list(found) == ["stem", "conv1", "conv2", "downsample.0", "conv3", "conv4", "fc"]
    assert {type(module) for module in found.values()} == {nn.Conv2d, nn.Linear}
