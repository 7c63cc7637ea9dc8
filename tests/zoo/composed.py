"""Networks around the ways in which layers are put together: merges, attention, heads, arithmetic, shapes, code."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.body import (
    FEATURES,
    WIDTH,
    Apply,
    Body,
    Builder,
    applied,
    between,
    conv,
    conv_norm,
    fixed,
    headed,
    on_images,
    pixels,
    pooled,
    tokens,
)

MERGES: dict[str, Builder] = {
    "add": applied(lambda x, a: F.relu(a(x) + x), conv),
    "add_two_convolutions": applied(lambda x, a, b: F.relu(a(x) + b(x)), conv, conv),
    "add_in_place": applied(lambda x, a: F.relu(a(x).add_(x)), conv),
    "add_scaled": applied(lambda x, a, b: b(x + 0.1 * a(x)), conv, conv),
    "add_alpha": applied(lambda x, a, b: b(torch.add(x, a(x), alpha=2)), conv, conv),
    "add_three": applied(lambda x, a, b: a(x) + b(x) + x, conv, conv),
    "add_to_itself": applied(lambda x, a, b: (lambda y: b(y + y))(a(x)), conv, conv),
    "subtract": applied(lambda x, a, b: b(F.relu(a(x) - x)), conv, conv),
    "multiply": applied(lambda x, a, b: a(x) * b(x), conv, conv),
    "divide": applied(lambda x, a, b: b(a(x) / (1 + x)), conv, conv),
    "maximum": applied(lambda x, a, b: torch.maximum(a(x), b(x)), conv, conv),
    "maxout": applied(lambda x, a: a(x).reshape(x.shape[0], 16, 2, 16, 16).amax(2), lambda: conv(16, 32)),
    "cat": applied(lambda x, a, b: torch.cat([a(x), x], 1), conv, conv, channels=32),
    "cat_of_unequal_ranges": applied(lambda x, a, b: b(torch.cat([x * 20, a(x)], 1)), conv, lambda: conv(32, 16)),
    "cat_four": applied(
        lambda x, a, b, c: torch.cat([a(x), b(x), c(x), x], 1), conv, lambda: conv(kernel=1), conv, channels=64
    ),
    "stack_and_sum": applied(lambda x, a, b: torch.stack([a(x), b(x)]).sum(0), conv, conv),
    "stack_and_mean": applied(lambda x, a, b: torch.stack([a(x), b(x)], 1).mean(1), conv, conv),
    "weighted_sum": between(lambda: _WeightedSum()),
    "gate": applied(lambda x, a, g: a(x) * torch.sigmoid(g(x)), conv, conv),
    "highway": applied(lambda x, a, g: (lambda t: t * F.relu(a(x)) + (1 - t) * x)(torch.sigmoid(g(x))), conv, conv),
    "mask": applied(lambda x, a: torch.where(a(x) > 0, x, 0.1 * x), conv),
    "u_shape": applied(
        lambda x, down, up, last: last(torch.cat([x, F.interpolate(up(down(x)), scale_factor=2.0)], 1)),
        lambda: conv_norm(16, 32, 2),
        lambda: conv(32, 16),
        lambda: conv(32, 16),
    ),
    "shared_layer": applied(lambda x, a: F.relu(a(F.relu(a(x)))), conv),
    "shared_activation": applied(lambda x, a, b, act: act(b(act(a(x)))) + x, conv, conv, nn.Hardswish),
    "shared_layer_with_two_ends": applied(lambda x, a: F.relu(a(x)) + a(x), conv),
}


class _WeightedSum(nn.Module):
    """A sum whose weights are learned, as in feature pyramids."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))
        self.left, self.right = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        weights = F.relu(self.weights) / (F.relu(self.weights).sum() + 1e-4)
        return weights[0] * self.left(x) + weights[1] * self.right(x)


class _SelfAttention(nn.Module):
    """`nn.MultiheadAttention` over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.attention = nn.AvgPool2d(2), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        sequence = tokens(x)
        return x + pixels(self.attention(sequence, sequence, sequence, need_weights=False)[0], x)


class _Attention(nn.Module):
    """Attention of two heads over the pixels, in operations that a subclass chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.mixed, self.out = nn.AvgPool2d(2), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        mixed = self.mixed(tokens(x)).reshape(x.shape[0], 64, 3, 2, 8).permute(2, 0, 3, 1, 4)
        query, key, value = mixed.unbind(0)
        attended = self.attend(query, key, value).transpose(1, 2).reshape(x.shape[0], 64, WIDTH)
        return x + pixels(self.out(attended), x)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return ((query @ key.transpose(-2, -1)) / math.sqrt(8)).softmax(-1) @ value


class _FusedAttention(_Attention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class _EinsumAttention(_Attention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.einsum("bhid,bhjd->bhij", query, key) * 8**-0.5
        return torch.einsum("bhij,bhjd->bhid", weights.softmax(-1), value)


class _LinearAttention(_Attention):
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query.softmax(-1) @ (key.softmax(-2).transpose(-2, -1) @ value)


class _BiasedAttention(_Attention):
    """With a learned bias for each distance, as in windowed transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2, 127))
        self.register_buffer("distance", torch.arange(64)[:, None] - torch.arange(64) + 63)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query @ key.mT * 8**-0.5 + self.bias[:, self.distance]).softmax(-1) @ value


class _SqueezeExcitation(nn.Module):
    """A gate for each channel, computed from the means of all."""

    def __init__(self, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(16, 4, 1), nn.ReLU(), conv(4, 16, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class _EfficientChannelAttention(nn.Module):
    """A gate for each channel by a convolution along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3)).unsqueeze(1)
        return x * torch.sigmoid(self.conv(means)).transpose(1, 2).unsqueeze(-1)


class _SpatialAttention(nn.Module):
    """A gate for each pixel, computed from mean and maximum of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


ATTENTION: dict[str, Builder] = {
    "multihead_attention": between(_SelfAttention),
    "softmax_attention": between(_Attention),
    "scaled_dot_product_attention": between(_FusedAttention),
    "einsum_attention": between(_EinsumAttention),
    "linear_attention": between(_LinearAttention),
    "biased_attention": between(_BiasedAttention),
    "squeeze_excitation": between(lambda: nn.Sequential(conv_norm(16, 16), _SqueezeExcitation())),
    "squeeze_excitation_hard": between(lambda: nn.Sequential(conv_norm(16, 16), _SqueezeExcitation(nn.Hardsigmoid))),
    "efficient_channel_attention": between(lambda: nn.Sequential(conv_norm(16, 16), _EfficientChannelAttention())),
    "spatial_attention": between(lambda: nn.Sequential(conv_norm(16, 16), _SpatialAttention())),
    "block_attention": between(lambda: nn.Sequential(conv_norm(16, 16), _SqueezeExcitation(), _SpatialAttention())),
    "global_context": applied(
        lambda x, weigh, change: (
            x + change((x.flatten(2) @ weigh(x).flatten(2).softmax(-1).transpose(1, 2)).unsqueeze(-1))
        ),
        lambda: conv(16, 1, 1),
        lambda: conv(kernel=1),
    ),
}


class _Cosine(nn.Module):
    """The cosine of the angle between features and a learned direction for each class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x.mean((2, 3))), F.normalize(self.weight))


class _Prototypes(nn.Module):
    """The negative squared distance between features and a learned point for each class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(num_classes, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return -(x.mean((2, 3))[:, None] - self.points).square().sum(2)


class _TiedWeights(nn.Module):
    """A hidden layer that is used twice, the second time transposed."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner, self.fc = nn.Linear(FEATURES, 16, bias=False), nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.inner(x.mean((2, 3))))
        return self.fc(F.relu(hidden @ self.inner.weight))


class _DeadFilters(nn.Module):
    """Neurons whose weights are all zero and whose bias is far larger than the sums of the others."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, num_classes)
        self.register_buffer("alive", (torch.arange(FEATURES) > 3).float())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.hidden.weight * self.alive[:, None]
        bias = self.hidden.bias + 3 * (1 - self.alive)
        return self.fc(F.relu(F.linear(torch.sigmoid(x.mean((2, 3))), weight, bias)))


def _mean_then(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


HEADS: dict[str, Builder] = {
    "head_mlp": headed(
        lambda n: _mean_then(nn.Linear(FEATURES, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Dropout(), nn.Linear(24, n))
    ),
    "head_conv": headed(lambda n: nn.Sequential(nn.Conv2d(FEATURES, n, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    "head_of_pixels": headed(lambda n: Apply(lambda x, c: c(x).mean((2, 3)), conv(FEATURES, n))),
    "head_cosine": headed(_Cosine),
    "head_prototypes": headed(_Prototypes),
    "head_without_weights": headed(lambda n: Apply(lambda x: x.mean((2, 3)).unflatten(1, (8, 4)).mean(2)[:, :n])),
    "head_without_bias": headed(lambda n: _mean_then(nn.Linear(FEATURES, n, bias=False))),
    "head_tied_weights": headed(_TiedWeights),
    "head_dead_filters": headed(_DeadFilters),
    "head_normed": headed(lambda n: _mean_then(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, n))),
    "head_log_softmax": headed(lambda n: _mean_then(nn.Linear(FEATURES, n), nn.LogSoftmax(1))),
    "head_temperature": headed(lambda n: Apply(lambda x, c: c(x.mean((2, 3))) / 0.5, nn.Linear(FEATURES, n))),
    "heads_summed": headed(
        lambda n: Apply(lambda x, a, b: a(x.mean((2, 3))) + b(x.amax((2, 3))), *(nn.Linear(32, n) for _ in "ab"))
    ),
    "heads_of_two_depths": lambda num_classes: _TwoDepths(num_classes),
    "heads_lazy": headed(lambda n: nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LazyLinear(n))),
}


class _TwoDepths(nn.Module):
    """The mean of the scores after the first and the second stage."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(3, 16, 2), conv_norm(16, 32, 2)
        self.early, self.late = nn.Linear(16, num_classes), nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return (self.early(x.mean((2, 3))) + self.late(self.second(x).mean((2, 3)))) / 2


ARITHMETIC: dict[str, Builder] = {
    "times_255": on_images(lambda x: x * 255),
    "to_one": on_images(lambda x: (x * 0.25 + 0.5) / 0.5 - 1),
    "minus_mean": on_images(lambda x: x - x.mean((2, 3), keepdim=True)),
    "plus_constant": applied(lambda x, a, b: b(a(x) + 3.0), conv, conv),
    "power_of_scalar": applied(lambda x, a: a(torch.exp(-x)), conv),
    "reversed_order": applied(lambda x, a, b: b(1.0 - a(x)), conv, conv),
    "square_root": applied(lambda x, a: a((x + 0.01).sqrt()), conv),
    "logarithm": applied(lambda x, a: a(torch.log1p(x)), conv),
    "absolute": applied(lambda x, a, b: b(a(x).abs()), conv, conv),
    "negative": applied(lambda x, a, b: b(-a(x)), conv, conv),
    "grey": on_images(lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1)),
    "learned_scale": between(lambda: _LayerScale()),
    "random_buffer": between(lambda: _Projection()),
    "concatenated_relu": applied(
        lambda x, a, b: b(torch.cat([F.relu(a(x)), F.relu(-a(x))], 1)), conv, lambda: conv(32)
    ),
    "coordinates": applied(
        lambda x, a: a(torch.cat([x, torch.linspace(-1, 1, 16).to(x).expand(x.shape[0], 1, 16, 16)], 1)),
        lambda: conv(17, 16),
    ),
    "cumulative_sum": applied(lambda x, a: a(x.cumsum(3) / 16), conv),
    "fourier": applied(lambda x, a: a(torch.fft.rfft2(x.float()).abs().to(x)[..., :8] / 16), conv),
}


class _LayerScale(nn.Module):
    """A residual branch times a small learned number for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = conv(), nn.Parameter(torch.full((16, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.conv(x)


class _Projection(nn.Module):
    """A fixed random projection of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", fixed(1, 16, 16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, self.matrix)


SHAPES: dict[str, Builder] = {
    "chunk": applied(
        lambda x, a, b: (lambda p: torch.cat([b(p[0]), p[1]], 1))(a(x).chunk(2, 1)), conv, lambda: conv(8, 8)
    ),
    "split": applied(lambda x, a: (lambda p: torch.cat([p[1], p[0] + 1], 1))(a(x).split([4, 12], 1)), conv),
    "unbind": applied(
        lambda x, a: (lambda p: F.relu(p[0]) + p[1])(a(x).unflatten(1, (2, 16)).unbind(1)), lambda: conv(16, 32)
    ),
    "slices": applied(lambda x, a: a(torch.cat([x[:, :8], x[:, 8:].flip(3)], 1)[:, :, 1:-1]), conv),
    "focus": on_images(
        lambda x: F.interpolate(
            (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4, scale_factor=2.0
        )
    ),
    "roll": applied(lambda x, a, b: b(a(x).roll((2, -1), (2, 3))), conv, conv),
    "shift": applied(lambda x, a: a(torch.cat([F.pad(x[:, :8, 1:], (0, 0, 0, 1)), x[:, 8:]], 1)), conv),
    "transpose": applied(lambda x, a, b: b(F.relu(a(x)).transpose(2, 3)), conv, conv),
    "channel_shuffle": applied(
        lambda x, a, b: b(a(x).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)), lambda: conv(groups=4), conv
    ),
    "channel_shuffle_module": between(lambda: nn.Sequential(conv(groups=4), nn.ChannelShuffle(4), conv(groups=4))),
    "index_select": applied(lambda x, a: a(x[:, [3, 1, 2, 0] * 4]), conv),
    "repeat": applied(lambda x, a: a(x.repeat(1, 2, 1, 1)), lambda: conv(32, 16)),
    "repeat_interleave": applied(lambda x, a: a(x.repeat_interleave(2, 1)), lambda: conv(32, 16)),
    "reshape_to_patches": applied(
        lambda x, linear: linear(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)).permute(
            0, 3, 1, 2
        ),
        lambda: nn.Linear(256, 16),
    ),
    "windows": applied(
        lambda x, linear: (
            (
                x.reshape(-1, 16, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1)
                + linear(x.reshape(-1, 16, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1))
            )
            .permute(0, 5, 1, 3, 2, 4)
            .reshape(x.shape)
        ),
        lambda: nn.Linear(16, 16),
    ),
}


class _KeywordDefault(Body):
    """A second argument that has a default."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        features = self.tail(self.tried(self.stem(images))).mean((2, 3))
        return features if return_features else self.fc(features)


class _Loop(nn.Module):
    """A loop over a list of layers, and a branch that the construction decides."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(conv() for _ in range(blocks))
        self.by_name = nn.ModuleDict({"last": conv(kernel=1)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = F.relu(block(x))
        return self.by_name["last"](x) if len(self.blocks) > 1 else x


class _Functional(nn.Module):
    """A convolution and a linear layer as functions of the network's own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.shift = nn.Parameter(0.1 * torch.randn(16, 16, 3, 3)), nn.Parameter(torch.zeros(16))
        self.mixing = nn.ParameterList([nn.Parameter(torch.eye(16) + 0.1 * torch.randn(16, 16))])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.filters, self.shift, padding=1))
        return F.relu(x.permute(0, 2, 3, 1) @ self.mixing[0]).permute(0, 3, 1, 2)


class _Hooked(nn.Module):
    """A layer whose output a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.conv.register_forward_hook(lambda module, inputs, output: 0.5 * output)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class _Branch(nn.Module):
    """A branch that depends on the values of the input, which cannot be quantized."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class _BranchOnSizes(nn.Module):
    """Branches on channels and on sizes of the image, and shuffles channels by them."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *sizes = x.shape
        if channels % 4 or int(x.size(2)) > 64 or len(sizes) != 2:
            return x
        return x.view(batch, 4, channels // 4, *sizes).transpose(1, 2).reshape(x.shape)


class _Recurrent(nn.Module):
    """An LSTM over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lstm(x.mean(3).transpose(1, 2))[0].transpose(1, 2)[..., None]


CODE: dict[str, Builder] = {
    "keyword_default": lambda num_classes: _KeywordDefault(num_classes, conv()),
    "loop": between(lambda: _Loop(3)),
    "functional": between(_Functional),
    "hooked": between(_Hooked),
    "nested_sequential": between(lambda: nn.Sequential(nn.Sequential(conv(), nn.Identity()), nn.Sequential(nn.ReLU()))),
    "dropouts": between(
        lambda: nn.Sequential(conv(), nn.Dropout2d(), nn.ReLU(), nn.AlphaDropout(), conv(), nn.Dropout())
    ),
    "stochastic_depth": applied(lambda x, a, b: F.relu(x + b(a(x))), conv, lambda: _StochasticDepth()),
    "recurrent": between(_Recurrent),
    "branch_on_values": between(_Branch),
    "branch_on_sizes": between(lambda: nn.Sequential(conv(groups=4), _BranchOnSizes(), conv(groups=4))),
    "two_dropout_functions": pooled(lambda x: F.dropout(x.mean((2, 3)), 0.5, False)),
}


class _StochasticDepth(nn.Module):
    """Drops a branch in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x if not self.training else x * (torch.rand(len(x), 1, 1, 1) < 0.8).to(x) / 0.8


COMPOSED = MERGES | ATTENTION | HEADS | ARITHMETIC | SHAPES | CODE
