"""Small networks around what is tested, for the tests of the canonical form."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.models.nodes import function_name

SIZE = 8
INPUT_SHAPE = (3, SIZE, SIZE)


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


class Holding(nn.Module):
    """Holds a tensor and applies a function to the value and to it."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("held", torch.randn(shape, generator=seeded()))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.held)


def built(function: Callable[..., Tensor], *parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Body(function, *parts).eval()


def holding(shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    """Return a network that applies a function to a value and a constant."""
    return built(lambda x, held: held(x), Holding(shape, function))


def conv(**options: object) -> nn.Conv2d:
    return nn.Conv2d(6, 6, 3, **({"padding": 1} | options))


def normed(norm: nn.Module) -> nn.Module:
    """Return a normalization with statistics as if it had seen images."""
    if norm.running_mean is not None:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def logits(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return network(images.clone())


def called(network: GraphModule) -> list[str]:
    """Return the functions and methods that a network calls, and the kinds of its modules."""
    return [
        type(network.get_submodule(str(node.target))).__name__ if node.op == "call_module" else function_name(node)
        for node in network.graph.nodes
        if node.op in ("call_module", "call_function", "call_method")
    ]
