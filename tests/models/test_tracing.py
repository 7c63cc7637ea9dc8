import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bodies import INPUT_SHAPE
from torch import Tensor, nn

from ptqflow.core.errors import ModelError
from ptqflow.models.tracing import trace_user_code


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Looping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for row in x:
            x = x + row
        return x


class Converting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.max())


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("no tensor\nat all")
        return x


@pytest.mark.parametrize(
    ("kind", "start", "code"),
    [
        (Branching, "torch.fx cannot trace Branching: ", "if x.sum() > 0:"),
        (Looping, "torch.fx cannot trace Looping: ", "for row in x:"),
        (Converting, "torch.fx cannot trace Converting: ", "return x * float(x.max())"),
        (Writing, "Writing does not run with what stands for its input", "x[:, 0] = 0"),
        (Raising, "Raising does not run with what stands for its input", 'raise TypeError("no tensor\\nat all")'),
    ],
)
def test_the_line_of_the_users_code_is_named(kind: type[nn.Module], start: str, code: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    number = next(index for index, line in enumerate(lines, 1) if line.strip() == code)

    with pytest.raises(
        ModelError, match=f"^{start}.*{re.escape(__file__)}, line {number}, `{re.escape(code)}`"
    ) as refusal:
        trace_user_code(kind(), INPUT_SHAPE)
    assert "\n" not in str(refusal.value)


def test_the_class_of_the_network_is_what_it_was() -> None:
    for network in (Branching(), nn.Sequential(nn.ReLU())):
        kind = type(network)
        if kind is Branching:
            with pytest.raises(ModelError):
                trace_user_code(network, INPUT_SHAPE)
        else:
            trace_user_code(network, INPUT_SHAPE)
        assert type(network) is kind


def test_the_steps_are_those_of_torchs_own_trace() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    steps = [(node.op, node.target) for node in trace_user_code(network, INPUT_SHAPE).nodes]
    assert steps == [(node.op, node.target) for node in torch.fx.Tracer().trace(network).nodes]


def decorated(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def wrapper(*args: Tensor) -> Tensor:
        return forward(*args)

    return wrapper


class Decorated(nn.Module):
    @decorated
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * 2


class Unpacking(nn.Module):
    def forward(self, *images: Tensor, twice: bool = False) -> Tensor:
        return images[0] * 2 if twice else images[0]


class Optional(nn.Module):
    def forward(self, input_: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        return input_ * scale if mask is None else input_ * mask


@pytest.mark.parametrize(("kind", "factor"), [(Decorated, 2), (Unpacking, 1), (Optional, 2)])
def test_a_forward_takes_one_input_whatever_its_signature(kind: type[nn.Module], factor: float) -> None:
    network, images = kind(), torch.ones(2, 3)
    graph = trace_user_code(network, INPUT_SHAPE)

    assert len(graph.find_nodes(op="placeholder")) == 1
    assert torch.equal(torch.fx.GraphModule(network, graph)(images), images * factor)
