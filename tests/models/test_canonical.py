import copy
import operator
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations, prune
from torchvision import models, ops

from ptqflow.core.errors import ModelError
from ptqflow.models.canonical import canonicalize, scope

SIZE = 8


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=seeded())


class Body(nn.Module):
    """Applies a function of the value and of modules between two convolutions."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3)
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), *self.parts)).flatten(1)


class Sub(nn.Conv2d):
    """A convolution under another name."""


class SubLinear(nn.Linear):
    """A linear layer with more to it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class SubNorm(nn.BatchNorm2d):
    """A batch normalization with its activation, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        normalized = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        return F.relu(normalized)


class Standardized(nn.Conv2d):
    """Weight standardization: the weight is computed from the parameter in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, self.stride, self.padding)


class Holding(nn.Module):
    """Holds a tensor and applies a function to the value and to it."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("held", torch.randn(shape, generator=seeded()))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.held)


def conv(**options: object) -> nn.Conv2d:
    return nn.Conv2d(6, 6, 3, **({"padding": 1} | options))


def normed(norm: nn.Module) -> nn.Module:
    """Return a normalization with statistics as if it had seen images."""
    if norm.running_mean is not None:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 2,))
    return layer


def added_in_place(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    y += x
    return y.mul_(2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: Body(lambda x, c: c(x), utils.weight_norm(conv())),
    "weight_norm, parametrized": lambda: Body(lambda x, c: c(x), parametrizations.weight_norm(conv())),
    "spectral_norm": lambda: Body(lambda x, c: c(x), utils.spectral_norm(conv())),
    "spectral_norm, parametrized": lambda: Body(lambda x, c: c(x), parametrizations.spectral_norm(conv())),
    "pruned": lambda: Body(lambda x, c: c(x), prune.l1_unstructured(conv(), "weight", 0.5)),
    "padding same": lambda: Body(lambda x, c: c(x), conv(padding="same")),
    "padding same, even kernel": lambda: Body(lambda x, c: c(x), nn.Conv2d(6, 6, 4, padding="same")),
    "padding same, dilated": lambda: Body(lambda x, c: c(x), conv(padding="same", dilation=2)),
    "padding valid": lambda: Body(lambda x, c: F.pad(c(x), (1, 1, 1, 1)), conv(padding="valid")),
    "padding reflect": lambda: Body(lambda x, c: c(x), conv(padding_mode="reflect")),
    "padding circular": lambda: Body(lambda x, c: c(x), conv(padding_mode="circular")),
    "padding replicate, uneven": lambda: Body(
        lambda x, c: c(x), nn.Conv2d(6, 6, (3, 5), padding=(1, 2), padding_mode="replicate")
    ),
    "in place, read again": lambda: Body(lambda x, a: a(x) + x, nn.Hardswish(inplace=True)),
    "in place, read again later": lambda: Body(lambda x, a, c: c(a(x)) + x, nn.ReLU(inplace=True), conv()),
    "one in place for all, read again": lambda: Body(
        lambda x, a, c: (lambda y: c(a(y)) + y)(c(a(x))), nn.ReLU(inplace=True), conv()
    ),
    "in place by a function": lambda: Body(lambda x: F.leaky_relu(x, 0.1, inplace=True) + x),
    "in place by a method": lambda: Body(lambda x: x.clamp_(min=0) * x),
    "in place by torch": lambda: Body(lambda x: torch.relu_(x) * x),
    "in place by operators": lambda: Body(added_in_place, conv()),
    "dropout": lambda: Body(lambda x, d, i: i(d(x)), nn.Dropout2d(), nn.Identity()),
    "functional dropout": lambda: Body(lambda x: F.dropout(x, 0.5, False)),
    "stochastic depth": lambda: Body(lambda x, s: x + s(x), ops.StochasticDepth(0.5, "row")),
    "subclass of a convolution": lambda: Body(lambda x, c: c(x), Sub(6, 6, 3, padding=1)),
    "subclass of a normalization": lambda: Body(lambda x, n: n(x), normed(SubNorm(6))),
    "weight standardization": lambda: Body(lambda x, c: c(x), Standardized(6, 6, 3, padding=1)),
    "functional convolution without bias": lambda: Body(
        lambda x, h: h(x), Holding((6, 1, 3, 3), lambda x, k: F.conv2d(x, k, padding=1, groups=6))
    ),
    "matmul with a weight": lambda: Body(
        lambda x, h: h(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), Holding((6, 6), operator.matmul)
    ),
    "functional linear with a normalized weight": lambda: Body(
        lambda x, h: h(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        Holding((6, 6), lambda x, w: F.linear(x, F.normalize(w))),
    ),
    "a table that is indexed": lambda: Body(
        lambda x, h: h(x), Holding((5, 6), lambda x, t: x + t[torch.tensor([0, 3])].mean(0).view(1, -1, 1, 1))
    ),
    "one layer twice": lambda: Body(lambda x, c: c(c(x)), Sub(6, 6, 3, padding=1)),
    "batch norm without weights": lambda: Body(lambda x, n: n(x), normed(nn.BatchNorm2d(6, affine=False))),
}


class ByShape(nn.Module):
    """Computes a weight with what has several results, and with its own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, 3, 3, generator=seeded()))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return F.conv2d(x, weight.view(self.weight.shape[0], -1).view(self.weight.shape), padding="same")


def read_before_and_after(x: Tensor, act: nn.Module, layer: nn.Module) -> Tensor:
    y = layer(act(x))
    return act(y) + y


NETWORKS |= {
    "in place, one activation for all": lambda: Body(read_before_and_after, nn.ReLU(inplace=True), conv()),
    "in place by torch.nn.functional": lambda: Body(lambda x: F.hardtanh_(x) + x),
    "weight with several results and shapes": lambda: Body(lambda x, w: w(x), ByShape()),
    "functional convolution, padding same, even kernel": lambda: Body(
        lambda x, h: h(x), Holding((6, 6, 2, 4), lambda x, w: F.conv2d(x, w, padding="same"))
    ),
    "padding circular, called twice": lambda: Body(lambda x, c: c(c(x)), conv(padding_mode="circular")),
    "subclass of a linear layer": lambda: Body(lambda x, m: m(x), SubLinear(SIZE, SIZE)),
    "functional convolution with options in lists": lambda: Body(
        lambda x, h: h(x),
        Holding((6, 6, 3, 3), lambda x, w: F.conv2d(input=x, weight=w, stride=[1, 1], padding=[1, 1])),
    ),
    "pre-hook": lambda: Body(lambda x, c: c(x), hooked(conv())),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def logits(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES.clone())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_the_same_to_the_bit_and_the_network_stays_unchanged(name: str) -> None:
    network = built(name)
    expected = logits(network)

    canonical = canonicalize(network, SIZE)

    assert torch.equal(logits(canonical), expected)
    assert torch.equal(logits(network), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_only_modules_of_torch_are_called_and_none_works_in_place(name: str) -> None:
    canonical = canonicalize(built(name), SIZE)

    called = [canonical.get_submodule(str(node.target)) for node in canonical.graph.nodes if node.op == "call_module"]
    assert all(type(module).__module__.startswith("torch.nn.") for module in called)
    assert not any(isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity) for module in called)
    assert not any(getattr(module, "inplace", False) for module in called)
    assert not any(name.endswith("_") for name in _functions(canonical))
    assert all(conv.padding_mode == "zeros" for conv in called if isinstance(conv, nn.Conv2d))
    assert not any(isinstance(conv.padding, str) for conv in called if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (lambda: normed(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)), "BatchNorm2d"),
        (lambda: normed(nn.InstanceNorm2d(6, track_running_stats=True)), "BatchNorm2d"),
        (lambda: nn.BatchNorm2d(6, track_running_stats=False), "normalize_by_batch"),
        (lambda: nn.BatchNorm2d(6, affine=False, track_running_stats=False), "normalize_by_batch"),
    ],
)
def test_statistics_are_what_the_layer_uses_in_evaluation_mode(norm: Callable[[], nn.Module], kind: str) -> None:
    network = Body(lambda x, n: n(x), norm()).eval()

    canonical = canonicalize(network, SIZE)

    torch.testing.assert_close(logits(canonical), logits(network))
    assert kind in {type(module).__name__ for module in canonical.modules()} | _functions(canonical)


def _functions(network: GraphModule) -> set[str]:
    return {node.target.__name__ for node in network.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("subclass of a convolution", "parts.0", nn.Conv2d),
        ("weight standardization", "parts.0", nn.Conv2d),
        ("functional convolution without bias", "parts.0", nn.Conv2d),
        ("matmul with a weight", "parts.0", nn.Linear),
        ("functional linear with a normalized weight", "parts.0", nn.Linear),
        ("one layer twice", "parts.0", nn.Conv2d),
        ("weight with several results and shapes", "parts.0", nn.Conv2d),
        ("subclass of a linear layer", "parts.0", nn.Linear),
    ],
)
def test_a_function_with_constant_weights_is_a_module_at_the_path_of_its_caller(
    name: str, path: str, kind: type[nn.Module]
) -> None:
    assert type(canonicalize(built(name), SIZE).get_submodule(path)) is kind


def test_a_layer_that_runs_twice_is_two_modules_with_the_same_tensors() -> None:
    canonical = canonicalize(built("one layer twice"), SIZE)
    calls = [str(node.target) for node in canonical.graph.nodes if str(node.target).startswith("parts.0")]
    assert calls == ["parts.0", "parts.0_1"]
    first, second = map(canonical.get_submodule, calls)
    assert first is not second
    assert first.weight is second.weight


def test_both_calls_of_a_layer_belong_to_the_path_of_the_user() -> None:
    canonical = canonicalize(built("one layer twice"), SIZE)
    assert [scope(node) for node in canonical.graph.nodes].count("parts.0") == 2


def test_one_relu_for_all_stays_one_module() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 6, 3), relu).eval()
    assert [str(node.target) for node in canonicalize(network, SIZE).graph.nodes].count("1") == 2


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d((2, 3), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, 3, divisor_override=3),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    ],
    ids=repr,
)
def test_average_pooling_with_a_count_of_its_own_averages_over_whole_windows(pool: nn.AvgPool2d) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), pool, nn.Flatten()).eval()
    canonical = canonicalize(network, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(canonical(images), network(images))
    plain = canonical.get_submodule("1")
    assert (plain.ceil_mode, plain.padding, plain.divisor_override) == (False, 0, None)


def test_average_pooling_that_is_called_twice_fits_the_size_of_each_input() -> None:
    network = Body(lambda x, p: F.pad(p(p(x)), (0, 5, 0, 5)), nn.AvgPool2d(3, 2, ceil_mode=True)).eval()

    torch.testing.assert_close(logits(canonicalize(network, SIZE)), logits(network))


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())

    def forward(self, pixels: Tensor, features: bool = False, scale: float = 2.0) -> object:
        x = self.block(pixels) * scale
        return (x, x) if features else x.mean((2, 3))


def test_other_arguments_have_their_defaults_and_the_input_keeps_its_name() -> None:
    network = Options().eval()
    canonical = canonicalize(network, SIZE)

    assert torch.equal(logits(canonical), logits(network))
    assert [node.name for node in canonical.graph.nodes if node.op == "placeholder"] == ["pixels"]


def test_steps_know_the_module_that_they_belong_to() -> None:
    network = nn.Sequential(Options(), nn.Linear(6, 6)).eval()
    scopes = {node.name: scope(node) for node in canonicalize(network, SIZE).graph.nodes}

    assert scopes["mul"] == "0"
    assert scopes["_0_block_0"] == "0.block.0"


def test_hooks_are_steps() -> None:
    network = built("dropout")
    network.last.register_forward_hook(lambda _module, _inputs, output: output * 2)

    assert torch.equal(logits(canonicalize(network, SIZE)), logits(network))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_can_be_trained_afterwards() -> None:
    network = built("weight_norm")
    network.train()(IMAGES).sum().backward()  # what it keeps then has a gradient, and cannot be copied

    canonicalize(network, SIZE)

    network.train()(IMAGES).sum().backward()
    assert network.parts[0].weight_v.grad is not None
    assert copy.deepcopy(network.first).weight.requires_grad


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "efficientnet_b0"),
        *("regnet_y_400mf", "convnext_tiny", "swin_t", "densenet121"),
    ],
)
def test_classifiers_of_torchvision_have_the_same_logits_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(canonicalize(network, 32)(images), network(images))


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_network_that_cannot_be_copied_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"^Locked cannot be copied .*lock.*; do not keep such an object in a module$"):
        canonicalize(Locked(), SIZE)


def add_in_place(x: Tensor, table: Tensor) -> Tensor:
    x += table.double()
    return x


def test_a_form_that_does_not_run_is_refused_in_one_line_that_names_the_step() -> None:
    """In place, a sum keeps the type of its first summand; torch.fx traces it as one that does not."""
    network = Body(lambda x, h: h(x), Holding((SIZE,), add_in_place))

    message = (
        "^Body does not run in the form that torch.fx traces: last raises RuntimeError .*double.* in place have the"
    )
    with pytest.raises(ModelError, match=message) as refusal:
        canonicalize(network, SIZE)
    assert "\n" not in str(refusal.value)
