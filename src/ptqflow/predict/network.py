"""One of the networks that the pipeline compares."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ptqflow.core.paths import FP32, INT8, INT8_UNCALIBRATED
from ptqflow.data.dataset import DatasetCard
from ptqflow.data.logits import LogitsCard, NetworkName
from ptqflow.fx.artifact import STATE, load_int8
from ptqflow.models.fp32 import WEIGHTS, ModelCard, load_fp32


@dataclass(frozen=True)
class Network:
    """A network and the file that it was read from."""

    name: NetworkName
    module: nn.Module
    card: ModelCard
    """Of the FP32 network that it is or was made from."""
    file: Path
    sha256: str
    """Of the file."""
    min_sqnr_db: float | None = None
    fp32_layers: int = 0
    calib_images: int = 0

    def describe_logits(self, dataset: DatasetCard, batch_size: int) -> LogitsCard:
        """Return the card of its logits for the test images of a data set, computed in batches of this size."""
        return LogitsCard(
            network=self.name,
            classes=self.card.classes,
            test_sha256=dataset.sha256["test"],
            fp32_sha256=self.card.weights_sha256,
            model_sha256=self.sha256,
            model_bytes=self.file.stat().st_size,
            fp32_layers=self.fp32_layers,
            calib_images=self.calib_images,
            min_sqnr_db=self.min_sqnr_db,
            batch_size=batch_size,
        )


def open_network(name: NetworkName) -> Network:
    """Read a network of the pipeline; an INT8 one selects its engine for this process.

    Raises:
        ArtifactError: a file is missing or changed.
        EngineError: this machine lacks the engine.
    """
    if name == "fp32":
        fp32 = load_fp32(FP32)
        return Network(name, fp32.module, fp32.card, WEIGHTS.path(FP32), fp32.card.weights_sha256)
    directory = {"int8": INT8, "int8_uncalibrated": INT8_UNCALIBRATED}[name]
    int8 = load_int8(directory)
    card = int8.card
    return Network(
        name,
        int8.module,
        card.model,
        STATE.path(directory),
        card.state_sha256,
        card.min_sqnr_db,
        card.fp32_layers,
        card.calibration_images,
    )
