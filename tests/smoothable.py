"""Networks whose normalizations can be scaled, and images for them."""

from typing import Any

import miniature
import numpy as np
import torch
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.statistics import Statistics
from ptqflow.data.dataset import Split
from ptqflow.models.architecture import hash_code
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import Fp32Model

IMAGES = 96
ROWS = np.arange(IMAGES, dtype=np.int64).reshape(-1, 16)
WIDTH = 16


class Transformer(nn.Module):
    """Patches, attention and an MLP after LayerNorm each, and a LayerNorm before the head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.widen, self.act, self.narrow = nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.narrow(self.act(self.widen(self.norm2(x))))
        return self.fc(self.norm3(x).mean(1))


def transformer(num_classes: int) -> nn.Module:
    """Return one whose normalizations return channels of like size."""
    model = Transformer(num_classes)
    for norm in (model.norm1, model.norm2, model.norm3):
        nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(model.fc.weight, std=2)
    return model


def outliers(num_classes: int) -> nn.Module:
    """Return one of which some channels are 50 times as large, as in large transformers; it computes the same."""
    model: Any = transformer(num_classes)
    for norm, weight in ((model.norm1, model.attention.in_proj_weight), (model.norm2, model.widen.weight)):
        with torch.no_grad():
            norm.weight[::5] *= 50
            norm.bias[::5] *= 50
            weight[:, ::5] /= 50
    return model


def build(function: Any) -> Fp32Model:
    """Return a network in its canonical form."""
    torch.manual_seed(0)
    model = canonicalize(function(len(miniature.CLASSES)).eval(), miniature.INPUT_SHAPE)
    name = f"{function.__module__}:{function.__name__}"
    return Fp32Model(model, miniature.card().model_copy(update={"name": name, "code_sha256": hash_code(name)}))


def collected(fp32: Fp32Model, train: Split, rows: Any = ROWS) -> Statistics:
    """Return what the observers see."""
    batches = input_batches(train, rows, fp32.card.normalization)
    return collect_statistics(observe(fp32.module, fp32.card.input_shape), batches, rows)


def images(fp32: Fp32Model, train: Split) -> Tensor:
    """Return the calibration images as the network takes them."""
    return torch.cat(list(input_batches(train, ROWS, fp32.card.normalization)))
