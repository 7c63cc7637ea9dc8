"""The manifest of an exported model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ptqflow.core.artifacts import sha256_file
from ptqflow.core.params import read_sections
from ptqflow.data.dataset import DatasetCard
from ptqflow.export.export import Networks
from ptqflow.export.qdq import step_roundings
from ptqflow.fx.layers import list_layers
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.torchvision_weights import is_published
from ptqflow.runtime.manifest import VERSION, CalibrationCard, FileCard, InputCard, LayerCard, Manifest, Needs

PACKAGE = Path(__file__).parents[1]
_SECTIONS = ("data", "model", "train", "calib", "convert")


def describe(directory: Path, networks: Networks, dataset: DatasetCard, metrics: Mapping[str, Any]) -> Manifest:
    """Describe the files of a directory, the networks that they hold and what those were made from."""
    card, int8 = networks.card, networks.int8.card
    scheme = int8.scheme
    return Manifest(
        ptqflow_version=VERSION,
        architecture=card.name,
        stem=card.stem,
        classes=card.classes,
        image_size=card.image_size,
        input=InputCard(mean=card.normalization.mean, std=card.normalization.std),
        engine=scheme.engine,
        needs=Needs(vnni=scheme.engine != "qnnpack" and not scheme.reduce_range),
        torch_version=torch.__version__.partition("+")[0],
        params=_params(),
        dataset_sha256=dict(dataset.sha256),
        code_sha256=_hash_code(card),
        weights_sha256=card.weights_sha256,
        calibration=CalibrationCard(images=int8.calibration_images, indices_sha256=int8.calibration_sha256),
        layers=_layers(networks),
        files={
            file.name: FileCard(sha256=sha256_file(file), bytes=file.stat().st_size)
            for file in sorted(directory.iterdir())
        },
        metrics={name: figure for name, figure in metrics.items() if name != "classes"},
    )


def _params() -> dict[str, dict[str, Any]]:
    """Return the sections without the places of files on this machine: hashes tell what was in them."""
    sections = read_sections(_SECTIONS)
    del sections["data"]["path"]
    model = sections["model"]
    if model["weights"] and not is_published(model["name"], model["weights"]):
        del model["weights"]
    return sections


def _layers(networks: Networks) -> tuple[LayerCard, ...]:
    roundings = step_roundings(networks.int8.module, networks.card.image_size)
    layers = list_layers(networks.fp32, networks.int8.module, networks.int8.card.scheme.fp32)
    return tuple(
        LayerCard(
            name=layer.name,
            operation=layer.operation,
            precision=layer.precision,
            scale=rounding.scale if rounding else None,
            zero_point=rounding.zero_point if rounding else None,
        )
        for layer in layers
        for rounding in [roundings.get(layer.name)]
    )


def _hash_code(card: ModelCard) -> str:
    digest = hashlib.sha256((card.code_sha256 or "").encode())
    for name in sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")):
        digest.update(name.encode() + b"\0" + (PACKAGE / name).read_bytes())
    return digest.hexdigest()
