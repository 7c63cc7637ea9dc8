"""Whole networks of timm, and a classifier as Hugging Face's, on INT8 beside ONNX Runtime's own quantizer.

`PYTHONPATH=src:tests python tests/zoo/timm_table.py` prints the rows of the table in docs/networks.md; with names,
theirs alone. Each network is trained for a moment, as those of the zoo, on images of 64x64 pixels, and then takes the
statistics of its batch normalizations from the calibration images.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zoo.body import conv_norm
from zoo.measure import (
    BATCH,
    PARAMS,
    TESTED,
    OnnxRuntimeError,
    gratings,
    quantize_in_onnxruntime,
    run_file,
    sqnr_db,
    train_briefly,
)

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.convert.method_search import search_methods
from ptqflow.convert.quantize import quantize
from ptqflow.core.errors import ModelError
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.models.fp32 import Fp32Model, load_fp32, save_fp32

SIZE, CALIBRATION, STEPS, RATE = 64, 128, 30, 1e-3
"""Pixels, images of the calibration, steps of the training and their rate."""
NAMES = (
    *("resnet18", "mobilenetv3_small_100", "efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto", "repvgg_a0"),
    *("regnety_002", "densenet121"),
)
NETWORKS = {**{name: f"timm:{name}" for name in NAMES}, "as Hugging Face's": "zoo.timm_table:wrapped"}


class Wrapped(nn.Module):
    """A classifier that returns its logits in a dict."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_norm(3, 16, 2), conv_norm(16, 32, 2), conv_norm(32, 64, 2))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        return {"loss": None, "logits": self.classifier(self.encoder(pixel_values).mean((2, 3)))}


def wrapped(num_classes: int) -> nn.Module:
    return Wrapped(num_classes)


def main() -> None:
    """Print a row of the table for each network."""
    warnings.simplefilter("ignore")  # of torch, timm and ONNX Runtime about the networks
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in sys.argv[1:] or NETWORKS:
        with tempfile.TemporaryDirectory() as directory:
            print(f"| `{name}` | {' | '.join(_cells(NETWORKS[name], Path(directory)))} |", flush=True)


def _cells(name: str, directory: Path) -> list[str]:
    """Return top-1 of FP32, then agreement and SQNR of ours in torch, in ONNX Runtime, and of its own quantizer."""
    (train, calibration), (test, images) = gratings(CALIBRATION, 0, SIZE), gratings(TESTED, 1, SIZE)
    model, card = train_briefly(name, train, calibration, RATE, STEPS)
    _take_statistics(model, calibration)
    save_fp32(directory / "fp32", model, card, calibration[:BATCH])
    loaded = load_fp32(directory / "fp32")
    fp32 = loaded.module
    rows = np.arange(CALIBRATION).reshape(-1, BATCH)
    statistics = collect_statistics(observe(fp32, card.input_shape), list(calibration.split(BATCH)), rows)
    search = search_methods(Fp32Model(fp32, loaded.card), PARAMS, statistics, train, lambda line: None)
    seen, smoothed = search.smoothed.statistics, search.smoothed.fp32.module
    int8 = quantize(smoothed, loaded.card, search.params, seen, train).converted
    with torch.inference_mode():
        exact, logits = fp32(images), int8(images)
    found = [logits, run_file(to_onnx(build_qdq(int8, card.input_shape), card.input_shape, {}), images)]
    (directory / "fp32.onnx").write_bytes(to_onnx(fp32, card.input_shape, {}))
    try:
        found.append(run_file(quantize_in_onnxruntime(directory / "fp32.onnx", calibration), images))
        note = ""
    except (ModelError, OnnxRuntimeError) as error:
        note = str(error)[:160]
    top1 = (exact.argmax(1).numpy() == test.labels).mean()
    cells = [f"{100 * top1:.1f}", *(_fidelity(values, exact) for values in found)]
    return [*cells, note or "—"] if note else cells


def _take_statistics(model: nn.Module, inputs: Tensor) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
    model.train()
    with torch.no_grad():
        for batch in inputs.split(BATCH):
            model(batch)
    model.eval()


def _fidelity(logits: Tensor, exact: Tensor) -> str:
    agreement = (logits.argmax(1) == exact.argmax(1)).double().mean()
    return f"{100 * agreement:.1f} %, {sqnr_db(logits, exact):.1f} dB"


if __name__ == "__main__":
    main()
