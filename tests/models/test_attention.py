"""Attention in the canonical form, against `nn.MultiheadAttention`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ptqflow.models.canonical import canonicalize

SIZE, WIDTH = 4, 12
INPUT_SHAPE = (3, SIZE, SIZE)
IMAGES = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

Forward = Callable[[nn.MultiheadAttention, Tensor], Tensor]


class Attending(nn.Module):
    """Applies attention to pixels."""

    def __init__(self, attention: nn.MultiheadAttention, forward: Forward) -> None:
        super().__init__()
        self.embed, self.attention, self.call = nn.Conv2d(3, WIDTH, 1), attention, forward
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.call(self.attention, x).mean(1))


def mask() -> Tensor:
    return torch.ones(SIZE**2, SIZE**2).triu(1)


def attention(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, 3, **({"batch_first": True} | options))  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


WRITTEN: dict[str, tuple[dict[str, object], Forward]] = {
    "of one tensor": ({}, lambda m, x: m(x, x, x, need_weights=False)[0]),
    "with weights": ({}, lambda m, x: m(x, x, x)[0] + m(x, x, x)[1].sum(1)[:, :WIDTH, None].mean((1, 2), True)),
    "weights of each head": (
        {},
        lambda m, x: m(x, x, x, average_attn_weights=False)[1].sum((1, 3))[..., None] + x,
    ),
    "of two tensors": ({}, lambda m, x: m(x, x.flip(1), x.flip(1))[0]),
    "of three": ({}, lambda m, x: m(x, x * 2, x.flip(1))[0]),
    "images second": (
        {"batch_first": False},
        lambda m, x: m(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1),
    ),
    "without bias": ({"bias": False}, lambda m, x: m(x, x, x)[0]),
    "keys of another width": ({"kdim": 6, "vdim": 3}, lambda m, x: m(x, x[..., :6], x[..., :3])[0]),
    "added mask": ({}, lambda m, x: m(x, x, x, attn_mask=mask() * -3)[0]),
    "boolean mask": ({}, lambda m, x: m(x, x, x, attn_mask=mask().bool())[0]),
}
LEFT: dict[str, tuple[dict[str, object], Forward]] = {
    "added keys": ({"add_bias_kv": True}, lambda m, x: m(x, x, x)[0]),
    "zero key": ({"add_zero_attn": True}, lambda m, x: m(x, x, x)[0]),
    "padding": ({}, lambda m, x: m(x, x, x, key_padding_mask=x[..., 0] > 1)[0]),
}


def build(case: tuple[dict[str, object], Forward]) -> nn.Module:
    options, forward = case
    return Attending(attention(**options), forward).eval()


@pytest.mark.parametrize("name", WRITTEN)
def test_linear_layers_and_products_compute_the_same(name: str) -> None:
    network = build(WRITTEN[name])
    canonical = canonicalize(network, INPUT_SHAPE)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in canonical.modules())
    assert any(path.startswith("attention.") and path.endswith("_proj") for path, _ in canonical.named_modules())
    for images in (IMAGES, IMAGES[:1]):
        with torch.no_grad():
            torch.testing.assert_close(canonical(images), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEFT)
def test_what_few_networks_have_is_left_to_torch(name: str) -> None:
    network = build(LEFT[name])
    canonical = canonicalize(network, INPUT_SHAPE)
    assert any(isinstance(module, nn.MultiheadAttention) for module in canonical.modules())
    with torch.no_grad():
        torch.testing.assert_close(canonical(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-5)


def test_the_tensors_are_those_of_the_users_network() -> None:
    network = build(WRITTEN["of one tensor"])
    canonical = canonicalize(network, INPUT_SHAPE)
    weight = canonical.get_submodule("attention.in_proj").weight
    assert weight.data_ptr() == network.attention.in_proj_weight.data_ptr()  # type: ignore[union-attr]
