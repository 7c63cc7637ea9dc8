import copy
import operator
import threading
from collections.abc import Callable

import pytest
import torch
from bodies import IMAGES, INPUT_SHAPE, SIZE, Body, Holding, called, conv, logits, normed, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations, prune
from torchvision import models, ops

from ptqflow.core.errors import ModelError
from ptqflow.models.canonical import canonicalize
from ptqflow.models.nodes import scope


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


class StandardizedByBatchNorm(nn.Conv2d):
    """Weight standardization as timm has it: the weight is normalized as a batch of one image."""

    def forward(self, x: Tensor) -> Tensor:
        rows, ones = self.weight.reshape(1, self.out_channels, -1), torch.ones(self.out_channels)
        weight = F.batch_norm(rows, None, None, weight=ones * 0.5, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class PaddedAsInTensorFlow(nn.Conv2d):
    """Pads by what the size of its input needs, unevenly."""

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        amounts = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size, kernel, stride in sizes]
        pads = [part for total in reversed(amounts) for part in (total // 2, total - total // 2)]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 2,))
    return layer


def added_in_place(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    y += x
    return y.mul_(2)


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
    "weight standardization by batch norm": lambda: Body(
        lambda x, c: c(x), StandardizedByBatchNorm(6, 6, 3, padding=1)
    ),
    "padding of TensorFlow": lambda: Body(lambda x, c: c(x), PaddedAsInTensorFlow(6, 6, 3, stride=2)),
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
    "in place, one activation for all": lambda: Body(read_before_and_after, nn.ReLU(inplace=True), conv()),
    "in place by torch.nn.functional": lambda: Body(lambda x: F.hardtanh_(x) + x),
    "weight with several results and shapes": lambda: Body(lambda x, w: w(x), ByShape()),
    "functional convolution, padding same, even kernel": lambda: Body(
        lambda x, h: h(x), Holding((6, 6, 2, 4), lambda x, w: F.conv2d(x, w, padding="same"))
    ),
    "padding circular, called twice": lambda: Body(lambda x, c: c(c(x)), conv(padding_mode="circular")),
    "padding same, even kernel, called twice": lambda: Body(lambda x, c: c(c(x)), nn.Conv2d(6, 6, 4, padding="same")),
    "subclass of a linear layer": lambda: Body(lambda x, m: m(x), SubLinear(SIZE, SIZE)),
    "functional convolution with options in lists": lambda: Body(
        lambda x, h: h(x),
        Holding((6, 6, 3, 3), lambda x, w: F.conv2d(input=x, weight=w, stride=[1, 1], padding=[1, 1])),
    ),
    "pre-hook": lambda: Body(lambda x, c: c(x), hooked(conv())),
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_the_same_to_the_bit_and_the_network_stays_unchanged(name: str) -> None:
    network = network_of(name)
    expected = logits(network)

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), expected)
    assert torch.equal(logits(network), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_only_modules_of_torch_are_called_and_none_works_in_place(name: str) -> None:
    canonical = canonicalize(network_of(name), INPUT_SHAPE)

    modules = [canonical.get_submodule(str(node.target)) for node in canonical.graph.nodes if node.op == "call_module"]
    assert all(type(module).__module__.startswith("torch.nn.") for module in modules)
    assert not any(isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity) for module in modules)
    assert not any(getattr(module, "inplace", False) for module in modules)
    assert not any(name.endswith("_") for name in called(canonical))
    assert all(conv.padding_mode == "zeros" for conv in modules if isinstance(conv, nn.Conv2d))
    assert not any(isinstance(conv.padding, str) for conv in modules if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("subclass of a convolution", "parts.0", nn.Conv2d),
        ("weight standardization", "parts.0", nn.Conv2d),
        ("weight standardization by batch norm", "parts.0", nn.Conv2d),
        ("padding of TensorFlow", "parts.0", nn.Conv2d),
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
    assert type(canonicalize(network_of(name), INPUT_SHAPE).get_submodule(path)) is kind


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())

    def forward(self, pixels: Tensor, features: bool = False, scale: float = 2.0) -> object:
        x = self.block(pixels) * scale
        return (x, x) if features else x.mean((2, 3))


def test_other_arguments_have_their_defaults_and_the_input_keeps_its_name() -> None:
    network = Options().eval()
    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert [node.name for node in canonical.graph.nodes if node.op == "placeholder"] == ["pixels"]


def test_steps_know_the_module_that_they_belong_to() -> None:
    network = nn.Sequential(Options(), nn.Linear(6, 6)).eval()
    scopes = {node.name: scope(node) for node in canonicalize(network, INPUT_SHAPE).graph.nodes}

    assert scopes["mul"] == "0"
    assert scopes["_0_block_0"] == "0.block.0"


def test_hooks_are_steps() -> None:
    network = network_of("dropout")
    network.last.register_forward_hook(lambda _module, _inputs, output: output * 2)

    assert torch.equal(logits(canonicalize(network, INPUT_SHAPE)), logits(network))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_can_be_trained_afterwards() -> None:
    network = network_of("weight_norm")
    network.train()(IMAGES).sum().backward()  # what it keeps then has a gradient, and cannot be copied

    canonicalize(network, INPUT_SHAPE)

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
        assert torch.equal(canonicalize(network, (3, 32, 32))(images), network(images))


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self._lock:
            return x * 2


LOCK = threading.Lock()


def locked(x: Tensor) -> Tensor:
    with LOCK:
        return x * 2


def test_a_network_that_cannot_be_copied_is_refused_in_one_line_with_what_works() -> None:
    message = (
        r"^Body cannot be copied: parts\.0\._lock, of type lock \(.*\); keep it outside the module, .* of the file$"
    )
    with pytest.raises(ModelError, match=message):
        canonicalize(Body(lambda x, m: m(x), Locked()), INPUT_SHAPE)

    network = Body(locked).eval()
    assert torch.equal(logits(canonicalize(network, INPUT_SHAPE)), logits(network))


def add_in_place(x: Tensor, table: Tensor) -> Tensor:
    x += table.double()
    return x


def test_a_form_that_does_not_run_is_refused_in_one_line_that_names_the_step() -> None:
    """In place, a sum keeps the type of its first summand; torch.fx traces it as one that does not."""
    network = Body(lambda x, h: h(x), Holding((SIZE,), add_in_place))

    message = (
        "^Body does not run in the form .*: for 2 images, last raises RuntimeError .*double.* at .*, line .*in place"
    )
    with pytest.raises(ModelError, match=message) as refusal:
        canonicalize(network, INPUT_SHAPE)
    assert "\n" not in str(refusal.value)
