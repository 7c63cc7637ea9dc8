"""Functions with constant weights become modules, and each call of a module has its own."""

import operator
from collections.abc import Callable

import pytest
import torch
from bodies import INPUT_SHAPE, SIZE, built, called, holding, logits
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.models.canonical import canonicalize
from ptqflow.models.nodes import scope


def last(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Apply a function to values with channels in the last dimension."""
    return lambda x, held: function(x.permute(0, 2, 3, 1), held).permute(0, 3, 1, 2)


FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor], str]] = {
    "convolution": ((6, 6, 3, 3), lambda x, w: F.conv2d(x, w, padding=1), "Conv2d"),
    "convolution by keywords": (
        (6, 2, 3, 3),
        lambda x, w: F.conv2d(weight=w, input=x, groups=3, padding=(1,)),
        "Conv2d",
    ),
    "convolution, padding same": ((6, 6, 2, 4), lambda x, w: F.conv2d(x, w, padding="same"), "Conv2d"),
    "transposed convolution": ((6, 6, 3, 3), lambda x, w: F.conv_transpose2d(x, w, padding=1), "ConvTranspose2d"),
    "transposed convolution with options": (
        (6, 2, 3, 3),
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1, groups=3)[..., :SIZE, :SIZE],
        "ConvTranspose2d",
    ),
    "linear": ((6, 6), last(F.linear), "Linear"),
    "operator": ((6, 6), last(operator.matmul), "Linear"),
    "matmul by keywords": ((6, 6), last(lambda x, w: torch.matmul(input=x, other=w)), "Linear"),
    "method": ((6, 6), last(lambda x, w: x.matmul(w)), "Linear"),
    "method by keyword": ((6, 6), last(lambda x, w: x.matmul(other=w * 2)), "Linear"),
    "layer normalization": ((6,), last(lambda x, w: F.layer_norm(x, (6,), w, w.square(), 1e-3)), "LayerNorm"),
    "layer normalization without bias": ((6,), last(lambda x, w: F.layer_norm(x, (6,), w)), "LayerNorm"),
    "layer normalization of weight one": ((1,), last(lambda x, w: F.layer_norm(x, x.shape[3:]) + w), "LayerNorm"),
    "group normalization": ((6,), lambda x, w: F.group_norm(x, 3, w, bias=w * 2), "GroupNorm"),
    "group normalization of weight one": ((1,), lambda x, w: F.group_norm(x, 2, eps=1e-3) + w, "GroupNorm"),
    "mm": ((6, 6), last(lambda x, w: x.reshape(-1, 6).mm(w).view(x.shape)), "Linear"),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_a_value_and_a_constant_is_a_module(name: str) -> None:
    shape, function, kind = FUNCTIONS[name]
    network = holding(shape, function)

    canonical = canonicalize(network, INPUT_SHAPE)

    torch.testing.assert_close(logits(canonical), logits(network))
    assert kind in called(canonical)
    functions = {"conv2d", "conv_transpose2d", "linear", "matmul", "mm", "layer_norm", "group_norm"}
    assert not functions & set(called(canonical))


OTHERS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor], str]] = {
    "einsum": ((6, 6), lambda x, w: torch.einsum("bchw,oc->bohw", x, w), "einsum"),
    "layer normalization with a bias alone": ((6,), last(lambda x, w: F.layer_norm(x, (6,), None, w)), "layer_norm"),
    "group normalization with a weight alone": ((6,), lambda x, w: F.group_norm(x, 3, w), "group_norm"),
    "constant from the left": ((SIZE, SIZE), lambda x, w: w @ x, "matmul"),
    "constant of four dimensions": ((1, 6, SIZE, SIZE), lambda x, w: x @ w, "matmul"),
    "weights from the input": ((6, 6, 3, 3), lambda x, w: F.conv2d(x, w * x.mean(), padding=1), "conv2d"),
    "transposed, weights from the input": (
        (6, 6, 3, 3),
        lambda x, w: F.conv_transpose2d(x, w * x.mean(), padding=1),
        "conv_transpose2d",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_module_stays_a_function_with_the_same_logits(name: str) -> None:
    shape, function, kind = OTHERS[name]
    network = holding(shape, function)

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert kind in called(canonical)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, other=F.relu(input=x)),
        lambda x: torch.add(other=x.abs(), input=x),
        lambda x: x.mul(other=x),
        lambda x: torch.maximum(input=x, other=-x),
    ],
)
def test_operands_are_passed_by_position(function: Callable[[Tensor], Tensor]) -> None:
    network = built(function)

    canonical = canonicalize(network, INPUT_SHAPE)

    assert torch.equal(logits(canonical), logits(network))
    assert not any({"input", "other"} & node.kwargs.keys() for node in canonical.graph.nodes)


class Sub(nn.Conv2d):
    """A convolution under another name."""


def test_a_layer_that_runs_twice_is_two_modules_with_the_same_tensors() -> None:
    canonical = canonicalize(built(lambda x, c: c(c(x)), Sub(6, 6, 3, padding=1)), INPUT_SHAPE)
    calls = [str(node.target) for node in canonical.graph.nodes if str(node.target).startswith("parts.0")]
    assert calls == ["parts.0", "parts.0_1"]
    first, second = map(canonical.get_submodule, calls)
    assert first is not second
    assert first.weight is second.weight


def test_both_calls_of_a_layer_belong_to_the_path_of_the_user() -> None:
    canonical = canonicalize(built(lambda x, c: c(c(x)), Sub(6, 6, 3, padding=1)), INPUT_SHAPE)
    assert [scope(node) for node in canonical.graph.nodes].count("parts.0") == 2


def test_one_relu_for_all_stays_one_module() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 6, 3), relu).eval()
    assert [str(node.target) for node in canonicalize(network, INPUT_SHAPE).graph.nodes].count("1") == 2
