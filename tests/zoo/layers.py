"""Networks around one kind of layer: activations, normalizations, poolings, paddings, convolutions, interpolations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import prune
from zoo.body import Builder, Make, applied, between, conv, headed, pooled


def _activated(make: Make) -> Builder:
    return between(lambda: nn.Sequential(conv(), nn.BatchNorm2d(16), make(), conv()))


def _normalized(make: Make) -> Builder:
    return between(lambda: nn.Sequential(conv(bias=False), make(), nn.ReLU()))


def _padded(make: Make) -> Builder:
    return between(lambda: nn.Sequential(make(), conv(padding=0)))


def _pooling(make: Make) -> Builder:
    return between(lambda: nn.Sequential(conv(), make(), conv()))


def _resized(**options: object) -> Builder:
    return applied(lambda x, first, last: last(F.interpolate(first(x), **options)), conv, conv)


def _in_place_read_again(make: Make) -> Builder:
    """An activation that overwrites its input, which is added afterwards."""

    def function(x: Tensor, first: nn.Module, activation: nn.Module, last: nn.Module) -> Tensor:
        y = first(x)
        return last(activation(y)) + y

    return applied(function, conv, make, conv)


ACTIVATIONS: dict[str, Builder] = {
    "relu": _activated(nn.ReLU),
    "relu6": _activated(nn.ReLU6),
    "leaky_relu": _activated(nn.LeakyReLU),
    "prelu": _activated(nn.PReLU),
    "prelu_channels": _activated(lambda: nn.PReLU(16, init=0.1)),
    "rrelu": _activated(nn.RReLU),
    "elu": _activated(nn.ELU),
    "celu": _activated(lambda: nn.CELU(0.7)),
    "selu": _activated(nn.SELU),
    "gelu": _activated(nn.GELU),
    "gelu_tanh": _activated(lambda: nn.GELU(approximate="tanh")),
    "silu": _activated(nn.SiLU),
    "mish": _activated(nn.Mish),
    "hardswish": _activated(nn.Hardswish),
    "hardsigmoid": _activated(nn.Hardsigmoid),
    "hardtanh": _activated(lambda: nn.Hardtanh(-0.5, 1.5)),
    "sigmoid": _activated(nn.Sigmoid),
    "tanh": _activated(nn.Tanh),
    "softplus": _activated(nn.Softplus),
    "softsign": _activated(nn.Softsign),
    "tanhshrink": _activated(nn.Tanhshrink),
    "softshrink": _activated(nn.Softshrink),
    "hardshrink": _activated(lambda: nn.Hardshrink(0.3)),
    "logsigmoid": _activated(nn.LogSigmoid),
    "threshold": _activated(lambda: nn.Threshold(0.1, 0.05)),
    "softmin": _activated(lambda: nn.Softmin(1)),
    "softmax_channels": _activated(lambda: nn.Softmax(1)),
    "glu": between(lambda: nn.Sequential(conv(16, 32), nn.GLU(1), conv())),
    "squared_relu": applied(lambda x, a, b: b(F.relu(a(x)) ** 2), conv, conv),
    "sine": applied(lambda x, a, b: b(torch.sin(a(x))), conv, conv),
    "swish_by_hand": applied(lambda x, a, b: (lambda y: b(y * torch.sigmoid(y)))(a(x)), conv, conv),
    "functional_relu6": applied(lambda x, a, b: b(F.relu6(a(x))), conv, conv),
    "clamp": applied(lambda x, a, b: b(a(x).clamp(-0.5, 2.0)), conv, conv),
    "in_place_relu": _activated(lambda: nn.ReLU(inplace=True)),
    "in_place_hardswish_read_again": _in_place_read_again(lambda: nn.Hardswish(inplace=True)),
    "in_place_leaky_relu_read_again": _in_place_read_again(lambda: nn.LeakyReLU(inplace=True)),
    "in_place_method": applied(lambda x, a, b: b(a(x).mul_(0.5).relu_()), conv, conv),
}


class _RootMeanSquare(nn.Module):
    """Normalization by the root mean square of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.weight


class _ChannelsLastNorm(nn.LayerNorm):
    """Layer normalization over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        normalized = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normalized.permute(0, 3, 1, 2)


class _StandardizedConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _FrozenNorm(nn.Module):
    """Batch normalization of buffers alone, as detection networks have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.1), ("mean", 0.1), ("var", 1.5)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.mean.reshape(1, -1, 1, 1) * scale)


class _FunctionalNorm(nn.BatchNorm2d):
    """Batch normalization that is called as a function."""

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)


NORMALIZATIONS: dict[str, Builder] = {
    "batch_norm": _normalized(lambda: nn.BatchNorm2d(16)),
    "batch_norm_without_affine": _normalized(lambda: nn.BatchNorm2d(16, affine=False)),
    "batch_norm_without_statistics": _normalized(lambda: nn.BatchNorm2d(16, track_running_stats=False)),
    "batch_norm_first": between(lambda: nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), conv())),
    "batch_norm_functional": _normalized(lambda: _FunctionalNorm(16)),
    "batch_norm_frozen": _normalized(lambda: _FrozenNorm(16)),
    "layer_norm": _normalized(lambda: nn.LayerNorm((16, 16, 16))),
    "layer_norm_channels": _normalized(lambda: _ChannelsLastNorm(16)),
    "group_norm": _normalized(lambda: nn.GroupNorm(4, 16)),
    "group_norm_one_group": _normalized(lambda: nn.GroupNorm(1, 16)),
    "group_norm_without_affine": _normalized(lambda: nn.GroupNorm(4, 16, affine=False)),
    "instance_norm": _normalized(lambda: nn.InstanceNorm2d(16)),
    "instance_norm_affine": _normalized(lambda: nn.InstanceNorm2d(16, affine=True)),
    "instance_norm_with_statistics": _normalized(lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
    "local_response_norm": _normalized(lambda: nn.LocalResponseNorm(3)),
    "rms_norm": _normalized(lambda: _RootMeanSquare(16)),
    "rms_norm_module": applied(
        lambda x, c, n: n(c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), conv, lambda: nn.RMSNorm(16)
    ),
    "l2_normalize": applied(lambda x, a, b: b(F.normalize(a(x))), conv, conv),
    "weight_norm": between(lambda: nn.Sequential(utils.weight_norm(conv()), nn.ReLU())),
    "weight_norm_parametrized": between(lambda: nn.Sequential(utils.parametrizations.weight_norm(conv()), nn.ReLU())),
    "spectral_norm": between(lambda: nn.Sequential(utils.spectral_norm(conv()), nn.ReLU())),
    "spectral_norm_parametrized": between(
        lambda: nn.Sequential(utils.parametrizations.spectral_norm(conv()), nn.ReLU())
    ),
    "orthogonal": between(lambda: nn.Sequential(utils.parametrizations.orthogonal(conv()), nn.ReLU())),
    "weight_standardization": _normalized(
        lambda: nn.Sequential(_StandardizedConv(16, 16, 3, padding=1), nn.GroupNorm(4, 16))
    ),
}

POOLINGS: dict[str, Builder] = {
    "max_pool": _pooling(lambda: nn.MaxPool2d(3, 2, 1)),
    "max_pool_ceil": _pooling(lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "max_pool_dilated": _pooling(lambda: nn.MaxPool2d(2, 1, dilation=2)),
    "avg_pool": _pooling(lambda: nn.AvgPool2d(2)),
    "avg_pool_ceil": _pooling(lambda: nn.AvgPool2d(3, 2, ceil_mode=True)),
    "avg_pool_without_pad": _pooling(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "avg_pool_divisor": _pooling(lambda: nn.AvgPool2d(2, divisor_override=3)),
    "adaptive_avg_pool": _pooling(lambda: nn.AdaptiveAvgPool2d(6)),
    "adaptive_max_pool": _pooling(lambda: nn.AdaptiveMaxPool2d(8)),
    "lp_pool": _pooling(lambda: nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2))),
    "fractional_max_pool": _pooling(lambda: nn.FractionalMaxPool2d(2, output_size=8)),
    "gem": pooled(lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
    "max_over_image": pooled(lambda x: x.amax((2, 3))),
    "mean_and_max": pooled(lambda x: x.mean((2, 3)) + x.amax((2, 3))),
    "log_sum_exp": pooled(lambda x: torch.logsumexp(x.flatten(2), 2)),
    "standard_deviation": pooled(lambda x: x.flatten(2).std(2)),
    "spatial_softmax": pooled(lambda x: (x.flatten(2) * x.flatten(2).softmax(2)).sum(2)),
    "sum_over_image": pooled(lambda x: x.sum((2, 3)) / 64),
    "top_of_image": pooled(lambda x: x.flatten(2).topk(4, 2).values.mean(2)),
    "flattened_head": headed(lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(2048, classes))),
    "adaptive_two_by_two": headed(
        lambda classes: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, classes))
    ),
    "pyramid_pooling": applied(
        lambda x, fine, coarse, last: last(
            torch.cat([x, *(F.interpolate(pool(x), x.shape[2:], mode="nearest") for pool in (fine, coarse))], 1)
        ),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), conv(16, 8, 1)),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(16, 8, 1)),
        lambda: conv(32, 16, 1),
    ),
}

PADDINGS: dict[str, Builder] = {
    "zero_pad": _padded(lambda: nn.ZeroPad2d(1)),
    "zero_pad_asymmetric": _padded(lambda: nn.ZeroPad2d((1, 0, 2, 1))),
    "constant_pad": _padded(lambda: nn.ConstantPad2d(1, 0.5)),
    "reflection_pad": _padded(lambda: nn.ReflectionPad2d(1)),
    "replication_pad": _padded(lambda: nn.ReplicationPad2d((0, 1, 1, 2))),
    "circular_pad": _padded(lambda: nn.CircularPad2d(1)),
    "negative_pad": applied(lambda x, c: c(F.pad(x, (-1, -1, -2, 0))), conv),
    "padding_same": between(lambda: conv(padding="same")),
    "padding_same_even": between(lambda: nn.Sequential(conv(kernel=4, padding="same", dilation=2), nn.ReLU())),
    "padding_valid": between(lambda: conv(padding="valid")),
    "padding_reflect": between(lambda: nn.Sequential(conv(padding_mode="reflect"), nn.ReLU())),
    "padding_replicate": between(lambda: nn.Sequential(conv(padding_mode="replicate"), nn.ReLU())),
    "padding_circular": between(lambda: nn.Sequential(conv(padding_mode="circular"), nn.ReLU())),
}


class _Blur(nn.Module):
    """A low-pass filter of fixed weights, as in anti-aliased networks."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (row[:, None] * row / 16).repeat(16, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=16)


class _SubclassedConv(nn.Conv2d):
    """A layer of the user's, which is one of torch's."""


CONVOLUTIONS: dict[str, Builder] = {
    "conv_1x1": between(lambda: conv(kernel=1)),
    "conv_5x5": between(lambda: conv(kernel=5)),
    "conv_1x7_7x1": between(
        lambda: nn.Sequential(nn.Conv2d(16, 16, (1, 7), padding=(0, 3)), nn.Conv2d(16, 16, (7, 1), padding=(3, 0)))
    ),
    "conv_dilated": between(lambda: conv(padding=2, dilation=2)),
    "conv_grouped": between(lambda: nn.Sequential(conv(groups=4), nn.BatchNorm2d(16), nn.ReLU())),
    "conv_depthwise": between(lambda: nn.Sequential(conv(groups=16), nn.BatchNorm2d(16), nn.ReLU6(), conv(kernel=1))),
    "conv_depth_multiplier": between(lambda: nn.Sequential(conv(16, 32, groups=16), nn.ReLU(), conv(32, 16, 1))),
    "conv_1d": applied(lambda x, c: c(x.flatten(2)).reshape(x.shape), lambda: nn.Conv1d(16, 16, 3, padding=1)),
    "conv_3d": applied(lambda x, c: c(x[:, None]).squeeze(1), lambda: nn.Conv3d(1, 1, 3, padding=1)),
    "conv_transposed": between(lambda: nn.Sequential(nn.ConvTranspose2d(16, 16, 2, 2), nn.ReLU(), conv())),
    "conv_transposed_padded": between(lambda: nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1, groups=2)),
    "conv_transposed_1d": applied(
        lambda x, c: c(x.flatten(2)).reshape(x.shape[0], 16, 32, 16), lambda: nn.ConvTranspose1d(16, 16, 2, 2)
    ),
    "conv_lazy": between(lambda: nn.LazyConv2d(16, 3, padding=1)),
    "conv_subclassed": between(lambda: _SubclassedConv(16, 16, 3, padding=1)),
    "conv_fixed_blur": between(_Blur),
    "conv_relu_conv": between(lambda: nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())),
    "linear_on_channels": applied(
        lambda x, linear: F.relu(linear(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), lambda: nn.Linear(16, 16)
    ),
    "bilinear": applied(
        lambda x, c, d, m: m(c(x).mean((2, 3)), d(x).mean((2, 3)))[:, :, None, None] * x,
        conv,
        conv,
        lambda: nn.Bilinear(16, 16, 16),
    ),
    "unfold": applied(
        lambda x, linear: linear(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).reshape(x.shape),
        lambda: nn.Linear(144, 16),
    ),
    "involution_of_means": applied(
        lambda x, c: F.conv2d(x, c(x).mean((0, 2, 3)).reshape(16, 1, 1, 1), groups=16), conv
    ),
    "pruned": between(lambda: nn.Sequential(prune.l1_unstructured(conv(), "weight", 0.5), nn.ReLU())),
    "pruned_channels": between(
        lambda: nn.Sequential(prune.ln_structured(conv(), "weight", 0.25, n=2, dim=0), nn.ReLU())
    ),
}

INTERPOLATIONS: dict[str, Builder] = {
    "interpolate_nearest": _resized(scale_factor=2, mode="nearest"),
    "interpolate_nearest_exact": _resized(size=(12, 20), mode="nearest-exact"),
    "interpolate_bilinear": _resized(scale_factor=2, mode="bilinear"),
    "interpolate_bilinear_corners": _resized(size=24, mode="bilinear", align_corners=True),
    "interpolate_antialias": _resized(size=8, mode="bilinear", antialias=True),
    "interpolate_bicubic": _resized(scale_factor=2, mode="bicubic"),
    "interpolate_area": _resized(size=8, mode="area"),
    "upsample": between(lambda: nn.Sequential(conv(), nn.Upsample(scale_factor=2), conv())),
    "pixel_shuffle": between(lambda: nn.Sequential(conv(16, 64), nn.PixelShuffle(2), conv())),
    "pixel_unshuffle": between(lambda: nn.Sequential(nn.PixelUnshuffle(2), conv(64, 16))),
    "grid_sample": applied(
        lambda x, c: F.grid_sample(
            c(x),
            F.affine_grid(torch.eye(2, 3).to(x)[None] * 0.9, [1, 1, 16, 16], False).expand(x.shape[0], -1, -1, -1),
            align_corners=False,
        ),
        conv,
    ),
}

LAYERS = ACTIVATIONS | NORMALIZATIONS | POOLINGS | PADDINGS | CONVOLUTIONS | INTERPOLATIONS
