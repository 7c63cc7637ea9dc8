"""Scaled channels: which can be, and that the network computes the same."""

from typing import Any

import miniature
import pytest
import smoothable
import torch
from smoothable import WIDTH, Transformer, transformer
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.fx.smoothing import find_pairs, smooth
from ptqflow.models.canonical import canonicalize

SHAPE = miniature.INPUT_SHAPE


def canonical(model: nn.Module) -> nn.Module:
    return canonicalize(model.eval(), SHAPE)


def scales(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return scales of all pairs from 1/8 to 8."""
    values = torch.exp2(torch.rand(WIDTH) * 6 - 3).tolist()
    return {pair.normalization: tuple(values) for pair in find_pairs(model, SHAPE)}


class Windows(nn.Module):
    """A normalization whose values are padded, rolled and regrouped on the way to the layer, as in a Swin network."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.qkv = nn.Conv2d(3, WIDTH, 1), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.norm(self.patch(x).permute(0, 2, 3, 1)), (0, 0, 0, 2, 0, 2)).roll((-1, -1), (1, 2))
        x = x.view(x.shape[0], 2, 5, 2, 5, WIDTH).permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0] * 4, 25, WIDTH)
        return self.qkv(x).reshape(-1, 4 * 25 * 24)


class Grouped(nn.Module):
    """GroupNorm and ReLU before a convolution, one ReLU for all, and a skip that only the second one lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, WIDTH, 3, padding=1) for c in (3, WIDTH, WIDTH))
        self.norm1, self.norm2, self.relu = nn.GroupNorm(4, WIDTH), nn.GroupNorm(4, WIDTH), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        return (x + self.conv3(self.relu(self.norm2(self.conv2(x))))).mean((2, 3))


class Rms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, WIDTH, 2, stride=2), nn.RMSNorm(WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        return (F.silu(self.gate(x)) * self.up(x)).mean(1)


CASES: dict[str, tuple[Any, dict[str, tuple[str, ...]]]] = {
    "attention and MLP": (
        lambda: transformer(6),
        {"norm1": ("attention.in_proj",), "norm2": ("widen",)},
    ),
    "windows": (Windows, {"norm": ("qkv",)}),
    "a skip reads one of two": (Grouped, {"norm2": ("conv3",)}),
    "RMSNorm and two layers": (Rms, {"normalize_by_root_mean_square": ("gate", "up")}),
}


@pytest.mark.parametrize("case", CASES)
def test_pairs_are_found_and_scaled_without_a_change_of_the_logits(case: str) -> None:
    torch.manual_seed(0)
    build, expected = CASES[case]
    model = canonical(miniature.vary(build()))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)

    found = find_pairs(model, SHAPE)
    scaled = smooth(model, SHAPE, scales(model))

    assert {pair.normalization: pair.layers for pair in found} == expected
    inputs = torch.randn(5, *SHAPE)
    before = model(inputs)
    torch.testing.assert_close(scaled.double()(inputs.double()), model.double()(inputs.double()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(before, model.float()(inputs), rtol=0, atol=0), "the original is unchanged"


def test_norms_divide_and_layers_multiply() -> None:
    model: Any = canonical(transformer(6))
    values = tuple(torch.linspace(0.5, 4, WIDTH).tolist())

    scaled: Any = smooth(model, SHAPE, {"norm2": values})

    s = torch.tensor(values)
    assert torch.equal(scaled.norm2.weight, model.norm2.weight / s)
    assert torch.equal(scaled.norm2.bias, model.norm2.bias / s)
    assert torch.equal(scaled.widen.weight, model.widen.weight * s)
    assert torch.equal(scaled.widen.bias, model.widen.bias)
    assert torch.equal(scaled.norm1.weight, model.norm1.weight)


class _Residual(Transformer):
    """Post-norm: the normalization is read by an addition too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.patch(x).flatten(2).transpose(1, 2))
        return self.fc((x + self.narrow(self.act(self.widen(x)))).mean(1))


class _Mixing(Transformer):
    """Between normalization and layer the channels leave their dimension."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.patch(x).flatten(2).transpose(1, 2))
        return self.fc(self.widen(x.transpose(1, 2)).mean(1)[:, :WIDTH])


class _Padded(Transformer):
    """What is padded with ones is not scaled."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.patch(x).flatten(2).transpose(1, 2))
        return self.fc(self.narrow(self.widen(F.pad(x, (0, 0, 1, 0), value=1.0))).mean(1))


class _ReadAlone(Transformer):
    """The weight of the normalization is read by something else."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc(self.narrow(self.widen(self.norm1(x))).mean(1) * self.norm1.weight)


@pytest.mark.parametrize("kind", [_Residual, _Mixing, _Padded, _ReadAlone])
def test_what_would_change_the_logits_is_no_pair(kind: type[Transformer]) -> None:
    assert find_pairs(canonical(kind(6)), SHAPE) == []


def test_norms_without_weight_or_over_several_dimensions_are_no_pairs() -> None:
    patch = nn.Conv2d(3, WIDTH, 1)
    tail = (nn.Linear(8, 4), nn.Flatten())
    for norm in (nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm([8, 8]), nn.GroupNorm(2, WIDTH, affine=False)):
        assert find_pairs(canonical(nn.Sequential(patch, norm, *tail)), SHAPE) == []


def test_without_scales_the_network_is_the_same_one() -> None:
    model = smoothable.build(transformer).module

    assert smooth(model, SHAPE, {}) is model
