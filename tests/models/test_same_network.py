import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptqflow.core.errors import ModelError
from ptqflow.models.canonical import canonicalize
from ptqflow.models.same_network import require_complete_state, require_same_network

SIZE = 8
INPUT_SHAPE = (3, SIZE, SIZE)
IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """Multiplies by what a function returns when the network is built."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, SIZE)
        self.scale = make(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1) * torch.as_tensor(self.scale, dtype=torch.float32)


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, SIZE)
        self.register_buffer("scale", torch.randn(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1) * self.scale


def check(build: Callable[[], nn.Module]) -> None:
    """Check a network against the one that is built again and has its state_dict."""
    trained, reloaded = build().eval(), build().eval()
    reloaded.load_state_dict(trained.state_dict())
    require_same_network(trained, reloaded, canonicalize(reloaded, INPUT_SHAPE), IMAGES)


def test_the_same_network_passes() -> None:
    check(lambda: nn.Sequential(nn.Conv2d(3, 6, SIZE), nn.Flatten()))
    check(lambda: Scaled(lambda _: 2.0))


numbers = itertools.count(1)


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (Buffered, "scale, a buffer with persistent=False, is outside the state_dict"),
        (lambda: Scaled(lambda _: torch.randn(6)), "scale, of type Tensor, is outside"),
        (lambda: Scaled(lambda _: np.random.default_rng().normal(size=6)), "scale, of type ndarray, is outside"),
        (lambda: Scaled(lambda _: float(next(numbers))), "scale, of type float, is outside"),
        (lambda: nn.Sequential(Scaled(lambda _: [float(next(numbers))] * 6)), "0.scale, of type list, is outside"),
    ],
    ids=["buffer", "tensor", "array", "number", "list"],
)
def test_what_lies_outside_the_state_dict_is_named(build: Callable[[], nn.Module], found: str) -> None:
    with pytest.raises(ModelError, match=f"computes something else once its weights are read back: {found}") as refusal:
        check(build)
    assert "\n" not in str(refusal.value)


def test_before_training_the_logits_of_a_complete_state_are_returned() -> None:
    network, other = (nn.Sequential(nn.Conv2d(3, 6, SIZE), nn.Flatten()).eval() for _ in range(2))
    with pytest.raises(ModelError, match="its state_dict does not hold all that it computes with"):
        require_complete_state(network, other, IMAGES)
    other.load_state_dict(network.state_dict())
    assert torch.equal(require_complete_state(network, other, IMAGES), network(IMAGES))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.randn(3)


def test_a_network_that_draws_random_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match="Noisy returns other logits each time for the same images"):
        check(Noisy)


def test_logits_that_are_not_finite_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, SIZE), nn.Flatten())
    nn.init.constant_(network[0].weight, torch.inf)
    with pytest.raises(ModelError, match="returns logits that are not finite"):
        check(lambda: network)


class Aliased(nn.Module):
    """Changes a view in place and reads what it is a view of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        flat = y.flatten(1)
        flat.mul_(3)
        return y.mean((2, 3))


def test_a_form_that_computes_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match="Aliased computes something else in the form"):
        check(Aliased)


class Checking(nn.Module):
    """Branches on what it is given, which is no tensor while torch.fx traces it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x if torch.is_tensor(x) else -x).mean((2, 3))


def hooked() -> nn.Module:
    """Return a network with a hook on itself, which torch.fx does not trace."""
    network = nn.Sequential(nn.Conv2d(3, 6, SIZE), nn.Flatten())
    network.register_forward_hook(lambda _module, _inputs, output: output * 2)
    return network


@pytest.mark.parametrize("build", [Checking, hooked, lambda: nn.Sequential(Checking())])
def test_a_form_without_what_torch_fx_does_not_see_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        ModelError, match=r"computes something else in the form that torch\.fx traces, first in"
    ) as refusal:
        check(build)
    assert "\n" not in str(refusal.value)


def test_the_module_where_the_forms_part_is_named() -> None:
    class Parted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.checking, self.head = nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 6, SIZE)

        def forward(self, x: Tensor) -> Tensor:
            y = self.checking(x)
            return self.head(y if torch.is_tensor(y) else -y).flatten(1)

    with pytest.raises(ModelError, match="first in head: "):
        check(Parted)
