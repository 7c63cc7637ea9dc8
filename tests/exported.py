"""A miniature INT8 network in the files of an exported model."""

import json
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import torch
from exporting import compute_both, make_networks
from manifests import make_manifest

from ptqflow.core.artifacts import write_bytes
from ptqflow.core.engines import Engine
from ptqflow.data.preprocessing import to_input
from ptqflow.export.export import write_files
from ptqflow.export.params import ExportParams
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.runtime.manifest import (
    FP32_ONNX,
    INT8_ONNX,
    INT8_TORCHSCRIPT,
    MANIFEST_FILE,
    REFERENCE,
    Manifest,
    describe_file,
    write_manifest,
)

FILES = [INT8_TORCHSCRIPT, INT8_ONNX, FP32_ONNX, REFERENCE]
ENGINE: Engine = "onednn"
TEST = miniature.images(50, seed=9)
"""The test images with which the network is exported."""


def write_export(directory: Path) -> Path:
    """Quantize a miniature network and write what the stage `export` writes."""
    torch.manual_seed(0)
    card = miniature.card()
    model = miniature.residual(len(card.classes)).eval()
    inputs = to_input(torch.from_numpy(miniature.images(40)), card.normalization)
    networks = make_networks(model, card, list(inputs.split(8)), engine=ENGINE)
    logits = compute_both(networks, miniature.split(len(TEST), seed=9), batch_size=len(TEST))
    write_files(directory, networks, logits, ExportParams(onnx=True, openvino=False, margin=0.1))
    write_manifest(directory, manifest(directory, FILES))
    return directory


def manifest(directory: Path, files: list[str]) -> Manifest:
    """Describe what `write_export` wrote."""
    return make_manifest({name: describe_file(directory / name) for name in files}, engine=ENGINE)


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
