"""A miniature INT8 network in the files of an exported model."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import torch
from fresh_process import collect, convert_params
from pydantic import ValidationError

from ptqflow.convert.quantize import quantize
from ptqflow.core.artifacts import sha256_file, write_bytes
from ptqflow.core.engines import Engine, lacks_vnni
from ptqflow.data.preprocessing import to_input
from ptqflow.export.export import Networks, write_files
from ptqflow.export.params import ExportParams
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.artifact import Int8Model
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.runtime.manifest import (
    FP32_ONNX,
    INT8_ONNX,
    INT8_TORCHSCRIPT,
    MANIFEST_FILE,
    CalibrationCard,
    FileCard,
    InputCard,
    LayerCard,
    Manifest,
    Needs,
    write_manifest,
)

ENGINE: Engine = "onednn"
METRICS = {"fp32": {"top1": 0.9}, "int8": {"top1": 0.85}, "agreement": 0.95}


def write_export(directory: Path) -> Path:
    """Quantize a miniature network and write what the stage `export` writes."""
    torch.manual_seed(0)
    card, train = miniature.card(), miniature.split(40)
    model = miniature.residual(len(card.classes)).eval()
    inputs = to_input(torch.from_numpy(train.images), card.normalization)
    quantized = quantize(model, card, convert_params(engine=ENGINE), collect(model, list(inputs.split(8))), train)
    int8 = Int8Model(quantized.converted, quantized.card)
    write_files(directory, Networks(model, int8), ExportParams(onnx=True, min_agreement=0.9))
    write_manifest(directory, manifest(directory, [INT8_TORCHSCRIPT, INT8_ONNX, FP32_ONNX]))
    return directory


def manifest(directory: Path, files: list[str]) -> Manifest:
    """Describe what `write_export` wrote."""
    card = miniature.card()
    return Manifest(
        ptqflow_version="0.1.0",
        architecture=card.name,
        stem=card.stem,
        classes=card.classes,
        image_size=card.image_size,
        input=InputCard(mean=card.normalization.mean, std=card.normalization.std),
        engine=ENGINE,
        needs=Needs(vnni=not lacks_vnni(ENGINE)),  # else it has 7 bits
        torch_version="2.13.0",
        params={},
        dataset_sha256={},
        code_sha256="0" * 64,
        weights_sha256="0" * 64,
        calibration=CalibrationCard(images=40, indices_sha256="0" * 64),
        layers=(
            LayerCard(name="conv1", operation="ConvReLU2d", precision="int8", scale=0.0123456789, zero_point=7),
            LayerCard(name="fc", operation="Linear", precision="fp32", scale=None, zero_point=None),
        ),
        files={
            name: FileCard(sha256=sha256_file(directory / name), bytes=(directory / name).stat().st_size)
            for name in files
        },
        metrics=METRICS,
    )


def change_manifest(directory: Path, **changes: Any) -> None:
    """Write another manifest of an exported model, with its own hash where what it says is valid."""
    path = directory / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with suppress(ValidationError):
        write_manifest(directory, Manifest.model_validate_json(path.read_text()))


def replace_torchscript(directory: Path) -> None:
    """Put another network into the TorchScript file, as kernels that compute something else would."""
    torch.manual_seed(1)
    write_bytes(directory / INT8_TORCHSCRIPT, to_torchscript(miniature.residual(6), miniature.SIZE))
    files = [file.name for file in directory.iterdir() if file.name != MANIFEST_FILE]
    write_manifest(directory, manifest(directory, files))


def reference_probabilities(pixels: np.ndarray, directory: Path) -> np.ndarray:
    """Return what torch makes of images of the model's size: its preprocessing, its TorchScript file, its softmax."""
    torch.backends.quantized.engine = ENGINE
    with without_torch_warnings():
        module = torch.jit.load(directory / INT8_TORCHSCRIPT)
    with torch.inference_mode():
        logits = module(to_input(torch.from_numpy(pixels), miniature.NORMALIZATION))
    return logits.double().softmax(dim=1).float().numpy()
