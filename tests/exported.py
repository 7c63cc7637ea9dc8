"""A miniature INT8 network in the files of an exported model."""

import json
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import torch
from evaluation import evaluate_metrics
from fresh_process import collect, convert_params

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
    REFERENCE,
    CalibrationCard,
    FileCard,
    InputCard,
    LayerCard,
    Manifest,
    Needs,
    write_manifest,
)

FILES = [INT8_TORCHSCRIPT, INT8_ONNX, FP32_ONNX, REFERENCE]
ENGINE: Engine = "onednn"
TEST = miniature.images(50, seed=9)
"""The test images with which the network is exported."""
METRICS = evaluate_metrics(fp32=0.9, int8=0.85, agreement=0.95)


def write_export(directory: Path) -> Path:
    """Quantize a miniature network and write what the stage `export` writes."""
    torch.manual_seed(0)
    card, train = miniature.card(), miniature.split(40)
    model = miniature.residual(len(card.classes)).eval()
    inputs = to_input(torch.from_numpy(train.images), card.normalization)
    quantized = quantize(model, card, convert_params(engine=ENGINE), collect(model, list(inputs.split(8))), train)
    int8 = Int8Model(quantized.converted, quantized.card)
    networks = Networks(model, int8)
    with torch.inference_mode():
        logits = int8.module(to_input(torch.from_numpy(TEST), card.normalization)).double()
    write_files(directory, networks, logits, ExportParams(onnx=True, openvino=False, min_agreement=0.9))
    write_manifest(directory, manifest(directory, FILES))
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
        input=InputCard.of(card.normalization),
        engine=ENGINE,
        needs=Needs(vnni=not lacks_vnni(ENGINE)),  # else it has 7 bits
        torch_version="2.13.0",
        params={},
        dataset_sha256={},
        code_sha256="0" * 64,
        model_code_sha256=None,
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
        min_agreement=0.9,
        metrics=METRICS,
    )


def change_manifest(directory: Path, **changes: Any) -> None:
    """Change keys of the manifest of an exported model, also to what is not valid."""
    path = directory / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_torchscript(directory: Path) -> None:
    """Write another network as the TorchScript file, in place of kernels that compute something else."""
    torch.manual_seed(1)
    write_bytes(directory / INT8_TORCHSCRIPT, to_torchscript(miniature.residual(6), miniature.INPUT_SHAPE))
    files = manifest(directory, [file.name for file in directory.iterdir() if file.name != MANIFEST_FILE])
    change_manifest(directory, files=files.model_dump(mode="json")["files"])


def reference_probabilities(pixels: np.ndarray, directory: Path) -> np.ndarray:
    """Return what torch makes of images of the model's size: its preprocessing, its TorchScript file, its softmax."""
    torch.backends.quantized.engine = ENGINE
    with without_torch_warnings():
        module = torch.jit.load(directory / INT8_TORCHSCRIPT)
    with torch.inference_mode():
        logits = module(to_input(torch.from_numpy(pixels), miniature.NORMALIZATION))
    return logits.double().softmax(dim=1).float().numpy()
