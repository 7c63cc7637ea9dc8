"""The manifest of an exported model in miniature; no other test names all of its keys."""

import hashlib
from collections.abc import Mapping
from typing import Any

import miniature
from evaluation import evaluation_figures
from fresh_process import ENGINES

from ptqflow.core.engines import lacks_vnni
from ptqflow.runtime.manifest import (
    FORMAT_VERSION,
    CalibrationCard,
    FileCard,
    InputCard,
    LayerCard,
    Manifest,
    Needs,
)
from ptqflow.runtime.version import VERSION

SHA256 = hashlib.sha256(b"").hexdigest()
METRICS = evaluation_figures(fp32=0.9, int8=0.85, agreement=0.95)
LAYERS = (
    LayerCard(name="conv1", operation="ConvReLU2d", precision="int8", scale=0.0123456789, zero_point=7),
    LayerCard(name="fc", operation="Linear", precision="fp32", scale=None, zero_point=None),
)


def make_manifest(files: Mapping[str, FileCard], **changes: Any) -> Manifest:
    """Return the manifest of the miniature residual network in these files, with other values of some keys."""
    card = miniature.card()
    values = {
        "format_version": FORMAT_VERSION,
        "ptqflow_version": VERSION,
        "architecture": card.name,
        "stem": card.stem,
        "classes": card.classes,
        "preprocessing": card.preprocessing,
        "input": InputCard.of(card.normalization),
        "engine": ENGINES[0],
        "needs": Needs(vnni=not lacks_vnni(ENGINES[0])),  # else it has 7 bits
        "torch_version": "2.13.0",
        "params": {},
        "dataset_sha256": {},
        "code_sha256": SHA256,
        "model_code_sha256": None,
        "weights_sha256": SHA256,
        "calibration": CalibrationCard(images=40, indices_sha256=SHA256),
        "layers": LAYERS,
        "files": dict(files),
        "margin": 0.1,
        "metrics": METRICS,
    }
    return Manifest(**(values | changes))
