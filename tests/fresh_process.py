"""What must not depend on the process: `python fresh_process.py FOLDER THREADS` writes all that quantization makes."""

import math
import sys
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import torch
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.statistics import Statistics, StatisticsCard, load_statistics, save_statistics
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.core.engines import Engine, available_engines, lacks_vnni
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.models.architecture import hash_code
from ptqflow.models.fp32 import load_fp32, save_fp32

ENGINES = available_engines()
SCHEMES: list[tuple[Engine, bool]] = [
    (engine, reduce_range)
    for engine in ENGINES
    for reduce_range in (False, True)
    if reduce_range or not lacks_vnni(engine)
]
"""Each engine with 8 and 7 bits for activations (`reduce_range`), without 8 where this CPU's kernels overflow."""
FULL_RANGE: Engine = next(engine for engine, reduce_range in SCHEMES if not reduce_range)
"""An engine whose kernels take all 8 bits on this CPU."""
FUSING = "onednn" if "onednn" in ENGINES else ENGINES[0]
RESIDUAL, BRANCHED = "miniature:residual", "fresh_process:branched"
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    **{engine: (RESIDUAL, {"engine": engine}) for engine in ENGINES},
    **{f"{engine}_uncalibrated": (RESIDUAL, {"engine": engine}) for engine in ENGINES},
    **{f"{engine}_branched": (BRANCHED, {"engine": engine}) for engine in ENGINES},
    "kept": (RESIDUAL, {"keep_fp32": ["conv2"]}),
    "kept_branched": (BRANCHED, {"engine": FUSING, "keep_fp32": ["left", "act"]}),
    "int8_head": (RESIDUAL, {"head": "int8"}),
    "per_tensor": (RESIDUAL, {"weight": {"per_channel": False}}),
    "mse_weights": (RESIDUAL, {"weight": {"method": "mse"}}),
    "7_bits": (RESIDUAL, {"activation": {"reduce_range": True}}),
    "corrected": (BRANCHED, {"engine": FUSING, "bias_correction": True, "weight": {"per_channel": False}}),
}
"""By the name of the folder: the network, and the changes to the section `convert`."""


def decibels(full_range: float, engine: Engine) -> float:
    """Return the SQNR to ask for by default: steps twice as wide, where an engine has 7 bits here, cost 6 dB."""
    return full_range - 20 * math.log10(2) * lacks_vnni(engine)


class Branched(nn.Module):
    """Two convolutions that are added, which oneDNN can fuse, one without bias; activations of many kinds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.Hardswish()
        self.left = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.right = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.gate = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.relu(self.left(x) + self.right(x))
        return self.fc(torch.flatten(self.avgpool(x * self.gate(x)), 1))


def branched(num_classes: int) -> nn.Module:
    return Branched(num_classes)


def convert_params(**changes: Any) -> ConvertParams:
    """The section `convert` with changes; those of its parts, `activation` and `weight`, are changes too."""
    activation = {"method": "mse", "percentile": 99.99, "symmetric": False, "reduce_range": None}
    weight = {"method": "minmax", "per_channel": True}
    parts = {
        "activation": activation | changes.pop("activation", {}),
        "weight": weight | changes.pop("weight", {}),
    }
    whole = {"engine": ENGINES[0], "head": "fp32", "keep_fp32": [], "overrides": {}}
    whole |= {"fuse_additions": True, "round_biases": True, "bias_correction": False, "max_drop": None}
    return ConvertParams.model_validate(whole | parts | changes)


def collect(model: nn.Module, batches: list[Tensor]) -> Statistics:
    """The statistics of equal batches, as `calib` collects them."""
    rows = np.arange(sum(map(len, batches))).reshape(len(batches), -1)
    return collect_statistics(observe(model, tuple(batches[0].shape[1:])), batches, rows)


def main(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    train = miniature.split(40)
    inputs = to_input(torch.from_numpy(train.images), miniature.NORMALIZATION)
    for name, network in ((RESIDUAL, miniature.residual), (BRANCHED, branched)):
        card = miniature.card().model_copy(update={"name": name, "code_sha256": hash_code(name)})
        path = folder / name.replace(":", "_")
        save_fp32(path / "fp32", network(len(miniature.CLASSES)), card, inputs)
        fp32 = load_fp32(path / "fp32")
        model, card = fp32.module, fp32.card
        save_statistics(
            path / "statistics", collect(model, list(inputs.split(8))), StatisticsCard(model=card, images=len(inputs))
        )
        statistics = load_statistics(path / "statistics", card)
        for choice, changes in ((choice, changes) for choice, (of, changes) in CHOICES.items() if of == name):
            seen = None if choice.endswith("uncalibrated") else statistics
            quantized = quantize(model, card, convert_params(**changes), seen, train)
            layers = list_layers(model, quantized.converted)
            save_int8(folder / choice, quantized.prepared, quantized.converted, layers, quantized.card, inputs)
            with torch.inference_mode():
                torch.save(quantized.converted(inputs), folder / choice / "logits.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
