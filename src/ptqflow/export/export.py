"""Write the exported files and hold them against the networks that they were made from."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ptqflow.core.artifacts import write_bytes
from ptqflow.core.errors import ModelError
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.export.gate import EXAMPLES, Gate, first_divergence
from ptqflow.export.onnx import to_onnx
from ptqflow.export.params import ExportParams
from ptqflow.export.qdq import build_twin, step_outputs
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.artifact import Int8Model
from ptqflow.models.accuracy import compute_logits
from ptqflow.models.fp32 import ModelCard
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, InputCard


@dataclass(frozen=True)
class Networks:
    """What is exported."""

    fp32: nn.Module
    int8: Int8Model

    @property
    def card(self) -> ModelCard:
        """What both are."""
        return self.int8.card.model


def write_files(directory: Path, networks: Networks, params: ExportParams) -> None:
    """Write the INT8 network as TorchScript and ONNX and the FP32 one as ONNX.

    Raises:
        ModelError: ONNX does not know an operation; the error names it and its layer.
    """
    card, module = networks.card, networks.int8.module
    write_bytes(directory / INT8_TORCHSCRIPT, to_torchscript(module, card.image_size))
    if params.onnx:
        twin = build_twin(module, card.image_size)
        write_bytes(directory / INT8_ONNX, to_onnx(twin, card.image_size, _metadata(card, "int8")))
        write_bytes(directory / FP32_ONNX, to_onnx(networks.fp32, card.image_size, _metadata(card, "fp32")))


def check_files(gate: Gate, networks: Networks, test: Split, params: ExportParams) -> dict[str, Any]:
    """Run each file in a fresh process and compare it with its network.

    Returns:
        What metrics/export.json holds: figures by file.

    Raises:
        ModelError: a file does not run or predicts something else; the error names the layer that differs first.
    """
    card = networks.card
    int8 = compute_logits(networks.int8.module, test, card.normalization, gate.batch_size, "int8")
    figures = {INT8_TORCHSCRIPT: gate.require_equal("torchscript", INT8_TORCHSCRIPT, int8)}
    if params.onnx:
        fp32 = compute_logits(networks.fp32, test, card.normalization, gate.batch_size, "fp32")
        try:
            figures[INT8_ONNX] = gate.require_agreement("onnxruntime", INT8_ONNX, int8, params.min_agreement)
        except ModelError as error:
            raise ModelError(f"{error}; {_where(gate, networks, test)}") from None
        figures[FP32_ONNX] = gate.require_agreement("onnxruntime", FP32_ONNX, fp32, params.min_agreement)
        if find_spec("openvino"):
            figures[INT8_ONNX]["openvino"] = gate.require_agreement("openvino", INT8_ONNX, int8, params.min_agreement)
    for name, found in figures.items():
        found["size_mb"] = round((gate.directory / name).stat().st_size / 1e6, 3)
    return figures


def _where(gate: Gate, networks: Networks, test: Split) -> str:
    card, count = networks.card, min(EXAMPLES, len(test))
    images = to_input(torch.from_numpy(np.array(test.images[:count])), card.normalization)
    expected = step_outputs(networks.int8.module, images)
    layer = first_divergence(expected, gate.replay("onnxruntime", INT8_ONNX, count, "steps"))
    return f"the first layer that differs is {layer}" if layer else "no single layer stands out"


def _metadata(card: ModelCard, precision: str) -> dict[str, str]:
    """Describe what a network takes and gives inside its file."""
    described = InputCard(mean=card.normalization.mean, std=card.normalization.std).model_dump(mode="json")
    return {
        "architecture": card.name,
        "precision": precision,
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "image_size": str(card.image_size),
        "input": json.dumps(described),
        "preprocessing": "RGB, short side scaled to image_size, cropped in the middle, (pixel / 255 - mean) / std",
    }
