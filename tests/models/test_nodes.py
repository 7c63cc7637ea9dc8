import torch
from bodies import INPUT_SHAPE, SIZE, Body, built, called, conv, logits
from torch import Tensor, nn

from ptqflow.models.canonical import canonicalize
from ptqflow.models.nodes import calls, copy_sharing_tensors, function_name, replace, scope, set_module, unused_path


class Keeping(nn.Module):
    """Keeps what it returned, with its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        return self.kept


def test_a_copy_shares_parameters_buffers_and_what_a_pass_has_left() -> None:
    network = Body(lambda x, m, n: n(m(x)), Keeping(), nn.BatchNorm2d(6))
    network(torch.ones(2, 3, SIZE, SIZE))

    copied = copy_sharing_tensors(network)

    assert copied.first is not network.first
    assert copied.first.weight is network.first.weight
    assert copied.parts[1].running_mean is network.parts[1].running_mean
    assert copied.parts[0].kept is network.parts[0].kept


def test_a_step_is_replaced_by_several_at_the_path_of_its_module() -> None:
    network = canonicalize(built(lambda x, act: act(x), nn.Tanh()), INPUT_SHAPE)
    expected = logits(network)
    ((node, _),) = calls(network, nn.Tanh)

    replace(node, lambda x: x.neg().tanh().neg())
    network.recompile()

    torch.testing.assert_close(logits(network), expected)
    assert called(network) == ["Conv2d", "neg", "tanh", "neg", "Conv2d", "flatten"]
    assert [scope(step) for step in network.graph.nodes if function_name(step) in ("neg", "tanh")] == ["parts.0"] * 3


def test_modules_are_put_at_paths_that_are_free() -> None:
    network = canonicalize(built(lambda x, layer: layer(x), conv()), INPUT_SHAPE)

    path = unused_path("parts.0", network)
    set_module(network, path, nn.ReLU())
    set_module(network, "a.b.c", nn.Tanh())

    assert path == "parts.0_1"
    assert unused_path("parts.0", network) == "parts.0_2"
    assert isinstance(network.get_submodule("parts.0_1"), nn.ReLU)
    assert isinstance(network.get_submodule("a.b.c"), nn.Tanh)
