"""What the networks of the zoo share: a stem, what is tried, a tail, the mean over the image, and a linear head."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[], nn.Module]
Builder = Callable[..., nn.Module]
"""Called with `num_classes`."""
WIDTH, FEATURES = 16, 32
"""Channels after the stem, and before the head."""


class Body(nn.Module):
    """A classifier around a module that maps (N, 16, 16, 16) to (N, channels, H, W)."""

    def __init__(self, num_classes: int, tried: nn.Module, channels: int = WIDTH) -> None:
        super().__init__()
        self.stem, self.tried, self.tail = conv_norm(3, WIDTH, 2), tried, conv_norm(channels, FEATURES, 2)
        self.fc = nn.Linear(FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.tail(self.tried(self.stem(images))).mean((2, 3)))


class Headed(nn.Module):
    """Features (N, 32, 8, 8), and a head that maps them to scores."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_norm(3, WIDTH, 2), conv_norm(WIDTH, FEATURES, 2))
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Apply(nn.Module):
    """A function of the input and of modules."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.called = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.called)


def conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def conv(inputs: int = WIDTH, outputs: int = WIDTH, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **({"padding": kernel // 2} | options))


def between(tried: Make, channels: int = WIDTH) -> Builder:
    """Return the builder of a network with a module between stem and tail."""
    return lambda num_classes: Body(num_classes, tried(), channels)


def applied(function: Callable[..., Tensor], *modules: Make, channels: int = WIDTH) -> Builder:
    """Return the builder of a network with a function between stem and tail."""
    return between(lambda: Apply(function, *(make() for make in modules)), channels)


def on_images(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return the builder of a network that computes images (N, 3, H, W) from its own first."""
    return lambda num_classes: nn.Sequential(Apply(function), Body(num_classes, conv()))


def headed(head: Callable[[int], nn.Module]) -> Builder:
    """Return the builder of a network with a head of features (N, 32, 8, 8)."""
    return lambda num_classes: Headed(head(num_classes))


def pooled(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return the builder of a network with a function of the features (N, 32, 8, 8) before a linear head."""
    return headed(lambda num_classes: nn.Sequential(Apply(function), nn.Linear(FEATURES, num_classes)))


def tokens(x: Tensor) -> Tensor:
    """Return the pixels of (N, C, H, W) as a sequence (N, HW, C)."""
    return x.flatten(2).transpose(1, 2)


def pixels(sequence: Tensor, like: Tensor) -> Tensor:
    """Return a sequence (N, HW, C) as an image of the same height and width as another."""
    return sequence.transpose(1, 2).reshape(sequence.shape[0], -1, like.shape[2], like.shape[3])


def fixed(seed: int, *shape: int) -> Tensor:
    """Return numbers that are equal in each process and leave torch's own generator unchanged."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
