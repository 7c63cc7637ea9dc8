"""Exported models in miniature."""

from dataclasses import dataclass
from pathlib import Path

import miniature
import numpy as np
import torch
from quantization.fresh_process import collect, convert_params
from torch import Tensor

from ptqflow.data.dataset import Dataset
from ptqflow.export.describe import describe
from ptqflow.export.files import ExportParams, Networks
from ptqflow.export.gate import Gate
from ptqflow.manifest import write_manifest
from ptqflow.models.fp32 import ModelCard
from ptqflow.quantization.artifact import Int8Card, Int8Model
from ptqflow.quantization.quantize import quantize
from ptqflow.quantization.statistics import Statistics

PARAMS = ExportParams(onnx=True, min_agreement=0.995, batch_size=16)
ROOT = Path(__file__).parents[1]
WEIGHTS_SHA256 = "3" * 64


def make_networks(model: torch.nn.Module, card: ModelCard, inputs: list[Tensor], **changes: object) -> Networks:
    card = card.model_copy(update={"weights_sha256": WEIGHTS_SHA256})
    quantized = quantize(model, card, convert_params(**changes), collect(model, inputs), miniature.split(40))
    return Networks(
        model, Int8Model(quantized.converted, Int8Card(scheme=quantized.scheme, calibrated=True, model=card))
    )


@dataclass(frozen=True)
class Exported:
    directory: Path
    dataset_directory: Path
    dataset: Dataset
    networks: Networks

    @property
    def gate(self) -> Gate:
        return Gate(self.directory, self.dataset_directory, self.dataset.test.labels, PARAMS.batch_size)

    def describe(self) -> None:
        rows = np.arange(40).reshape(5, 8)
        metrics = {"int8": {"top1": 0.5}, "classes": {"ant": {"images": 7}}}
        manifest = describe(self.directory, self.networks, self.dataset.card, Statistics({}, {}, rows), metrics)
        write_manifest(self.directory, manifest)
