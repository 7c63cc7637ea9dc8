"""Exported models in miniature."""

from dataclasses import dataclass
from pathlib import Path

import miniature
import torch
from evaluation import evaluation_figures
from fresh_process import collect, convert_params
from torch import Tensor

from ptqflow.convert.quantize import quantize
from ptqflow.core.figures import FileCheck
from ptqflow.core.params import read_sections
from ptqflow.data.dataset import Dataset, Split
from ptqflow.export.export import LogitsPair, Networks, check_files
from ptqflow.export.gate import Gate
from ptqflow.export.manifest import SECTIONS, describe
from ptqflow.export.params import ExportParams
from ptqflow.fx.artifact import Int8Model
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.logits import compute_logits
from ptqflow.runtime.manifest import write_manifest

PARAMS = ExportParams(onnx=True, openvino=False, margin=0.005)
ROOT = Path(__file__).parents[1]
WEIGHTS_SHA256 = "3" * 64


def make_networks(model: torch.nn.Module, card: ModelCard, inputs: list[Tensor], **changes: object) -> Networks:
    card = card.model_copy(update={"weights_sha256": WEIGHTS_SHA256})
    train = miniature.split(40, channels=card.normalization.channels)
    quantized = quantize(model, card, convert_params(**changes), collect(model, inputs), train)
    return Networks(model, Int8Model(quantized.converted, quantized.card))


def compute_both(networks: Networks, test: Split, batch_size: int) -> LogitsPair:
    """Return what the stage `predict` computes of both networks."""
    int8, fp32 = (
        compute_logits(network, test, networks.card.normalization, batch_size, "test").numpy()
        for network in (networks.int8.module, networks.fp32)
    )
    return LogitsPair(int8, fp32)


@dataclass(frozen=True)
class Exported:
    directory: Path
    dataset_directory: Path
    dataset: Dataset
    networks: Networks

    @property
    def gate(self) -> Gate:
        return Gate(self.directory, self.dataset_directory, self.dataset.test.labels, 16)

    @property
    def logits(self) -> LogitsPair:
        """Of both networks for the test images."""
        return compute_both(self.networks, self.dataset.test, 16)

    def check(self, params: ExportParams = PARAMS) -> list[FileCheck]:
        """Compare the files with the networks, as the stage does."""
        return check_files(self.gate, self.networks, self.logits, self.dataset.test, params)

    def describe(self) -> None:
        """Write the manifest."""
        manifest = describe(
            self.directory,
            self.networks,
            self.dataset.card,
            PARAMS,
            evaluation_figures(int8=0.5),
            read_sections(SECTIONS),
        )
        write_manifest(self.directory, manifest)
