"""Networks and images small enough that every part of the pipeline runs on them for real."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.dataset import DatasetCard, Split, digests_of
from ptqflow.models.architecture import hash_code
from ptqflow.models.fp32 import ModelCard

torch.set_num_threads(1)  # with more, test processes side by side wait for each other's threads

SIZE = 8
INPUT_SHAPE = (3, SIZE, SIZE)
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fly")
NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
NORMALIZATIONS = {
    1: Normalization(mean=(0.5,), std=(0.2,)),
    3: NORMALIZATION,
    4: Normalization(mean=(0.5, 0.4, 0.3, 0.6), std=(0.2, 0.25, 0.3, 0.35)),
}
"""By the number of channels."""

PREPROCESSING = Preprocessing.default((SIZE, SIZE))

DATASET_CARD = DatasetCard(
    name="digits",
    source="synthetic",
    classes=CLASSES,
    preprocessing=PREPROCESSING,
    sizes={"train": 30, "val": 20, "test": 20},
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    normalization=Normalization(mean=(0.11, 0.22, 0.33), std=(0.44, 0.55, 0.66)),
    horizontal_flip=True,
    skipped=0,
    sha256={},
)


class Residual(nn.Module):
    """A ResNet in miniature: stem with max-pool, one residual block, linear head."""

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Normed(nn.Module):
    """What torch has no INT8 kernel for, after and between what it has one for."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(SIZE)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.mean(F.gelu(self.conv(self.norm(x))), (2, 3)))


class Gated(nn.Module):
    """Layers whose output no INT8 step reads: before Hardswish, a gate, LayerNorm and GELU; one without bias."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.widen, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return self.fc((self.narrow(F.gelu(self.widen(y))) * 0.5).mean((1, 2)))


def residual(num_classes: int, channels: int = 3) -> nn.Module:
    return vary(Residual(num_classes, channels))


def normed(num_classes: int) -> nn.Module:
    return Normed(num_classes)


def gated(num_classes: int) -> nn.Module:
    return vary(Gated(num_classes))


def vary(model: nn.Module) -> nn.Module:
    """Return a network with statistics and weights of batch normalization as if it had seen images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    return model


def card(function: str = "residual") -> ModelCard:
    name = f"miniature:{function}"
    return ModelCard(
        name=name,
        stem="standard",
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        normalization=NORMALIZATION,
        code_sha256=hash_code(name),
    )


def images(count: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8)


def split(count: int, seed: int = 0, channels: int = 3) -> Split:
    pixels = images(count, seed, channels)
    return Split(pixels, np.arange(count, dtype=np.int64) % len(CLASSES), digests_of(pixels))
