"""The manifest of an exported model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ptqflow.core.code import hash_packages
from ptqflow.core.figures import Figures
from ptqflow.data.dataset import DatasetCard
from ptqflow.export.export import Networks
from ptqflow.export.params import ExportParams
from ptqflow.export.qdq import step_roundings
from ptqflow.fx.layers import list_layers
from ptqflow.models.torchvision_weights import is_published
from ptqflow.runtime.manifest import (
    FORMAT_VERSION,
    CalibrationCard,
    InputCard,
    LayerCard,
    Manifest,
    Needs,
    describe_file,
)
from ptqflow.runtime.version import VERSION

PACKAGES = ("core", "data", "export", "fx", "models", "runtime")
"""That the stage `export` depends on: a hash of others would change model.json though dvc has no reason to rerun it."""
SECTIONS = ("data", "model", "train", "calib", "convert")
"""Of params.yaml, that the manifest records."""


def describe(
    directory: Path,
    networks: Networks,
    dataset: DatasetCard,
    params: ExportParams,
    metrics: Figures,
    sections: Mapping[str, Mapping[str, Any]],
) -> Manifest:
    """Return the manifest of the files in a directory.

    Args:
        directory: of the files.
        networks: that they hold.
        dataset: from which the networks were made.
        params: the section `export`.
        metrics: what `evaluate` measured.
        sections: of params.yaml, all that the networks were made with.
    """
    card, int8 = networks.card, networks.int8.card
    scheme = int8.scheme
    return Manifest(
        format_version=FORMAT_VERSION,
        ptqflow_version=VERSION,
        architecture=card.name,
        stem=card.stem,
        classes=card.classes,
        preprocessing=card.preprocessing,
        input=InputCard.of(card.normalization),
        engine=scheme.engine,
        needs=Needs(vnni=not scheme.reduce_range),
        torch_version=torch.__version__.partition("+")[0],
        params=_without_paths(sections),
        dataset_sha256=dict(dataset.sha256),
        code_sha256=hash_packages(PACKAGES),
        model_code_sha256=card.code_sha256,
        weights_sha256=card.weights_sha256,
        calibration=CalibrationCard(images=int8.calibration_images, indices_sha256=int8.calibration_sha256),
        layers=_layers(networks),
        files={file.name: describe_file(file) for file in sorted(directory.iterdir())},
        margin=params.margin,
        metrics=metrics,
    )


def _without_paths(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sections without paths of files on this machine: hashes identify their contents."""
    kept = {name: dict(sections[name]) for name in SECTIONS}
    del kept["data"]["path"]
    model = kept["model"]
    model.pop("classes", None)
    if model["weights"] and not is_published(model["name"], model["weights"]):
        del model["weights"]
    return kept


def _layers(networks: Networks) -> tuple[LayerCard, ...]:
    roundings = step_roundings(networks.int8.module, networks.card.input_shape)
    layers = list_layers(networks.fp32, networks.int8.module)
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
