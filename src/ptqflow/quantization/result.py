"""What `ptqflow.quantize` returns."""

import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from ptqflow.calib.statistics import Statistics
from ptqflow.convert.conversion import Conversion
from ptqflow.convert.range_figures import range_rows
from ptqflow.convert.sensitivity import measure_sensitivity, sensitivity_rows
from ptqflow.core.artifacts import new_directory, write_text
from ptqflow.core.figures import EpochRow, FileCheck, SensitivityRow, UnlabelledFigures
from ptqflow.data.dataset import Dataset
from ptqflow.evaluate.predictions import changed_rows, predict
from ptqflow.evaluate.verdict import describe_agreement
from ptqflow.fx.layers import count_layers, list_layers
from ptqflow.fx.smoothing import smooth
from ptqflow.models.fp32 import Fp32Model
from ptqflow.report.page import make_page
from ptqflow.report.results import Results
from ptqflow.runtime.manifest import INT8_ONNX, Manifest, read_manifest

_SENSITIVITY_IMAGES = 256


class ScratchFolder:
    """A temporary folder that lives as long as this object."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="ptqflow-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class Steps:
    """What the steps of a quantization made."""

    fp32: Fp32Model
    statistics: Statistics
    conversion: Conversion
    dataset: Dataset


@dataclass(frozen=True)
class Quantization:
    """An INT8 model whose exported files have passed the gate, and how near it is to FP32.

    The files lie in a temporary folder until `save` copies them.
    """

    figures: UnlabelledFigures
    """Of INT8 in torch against FP32."""
    checks: tuple[FileCheck, ...]
    """Of each exported file in each runtime, against FP32."""
    logits: Mapping[str, NDArray[np.float32]]
    """Of `fp32` and `int8` in torch for the images that are compared, (N, classes)."""
    steps: Steps = field(repr=False)
    folder: ScratchFolder = field(repr=False)

    @property
    def shipped(self) -> FileCheck:
        """The check of int8.onnx in ONNX Runtime, of TorchScript with `export.onnx=False`."""
        return next((check for check in self.checks if check.file == INT8_ONNX), self.checks[0])

    @property
    def agreement(self) -> float:
        """Share of the compared images, 0 to 1, for which the shipped file predicts what FP32 predicts."""
        return self.shipped.fp32_agreement

    @property
    def sqnr_db(self) -> float | None:
        """Of the shipped file's logits to FP32's in decibels, the median over the images; None where they are equal."""
        return self.shipped.median_sqnr_db

    @property
    def changed(self) -> NDArray[np.int64]:
        """Which of the compared images INT8 in torch predicts otherwise, those with the largest margins first."""
        return changed_rows(predict(self.logits["fp32"]), predict(self.logits["int8"]))

    @property
    def manifest(self) -> Manifest:
        """Of the exported files."""
        return read_manifest(self._exported)

    @property
    def verdict(self) -> str:
        """The figures of torch's INT8 network and the precision of the layers in a sentence."""
        layers = count_layers(list_layers(self.steps.fp32.module, self.steps.conversion.quantized.converted))
        sizes = self.figures.fp32_mb / self.figures.int8_mb
        return (
            f"{describe_agreement(self.figures)} {sizes:.1f} times smaller, {layers['int8']} layers on INT8, "
            f"{layers['fp32']} on FP32."
        )

    def report(self, path: str | PathLike[str] | None = None) -> str:
        """Measure the sensitivity of the layers and return a page about the model as HTML, as of the stage `report`.

        Args:
            path: a file into which it is written too.
        """
        page = make_page(self._results(), elsewhere="")
        if path is not None:
            write_text(Path(path), page)
        return page

    def save(self, directory: str | PathLike[str]) -> None:
        """Write the exported files into a directory, whole or not at all; one that is there is replaced.

        Raises:
            OSError: the disk is full, or the directory cannot be written.
        """
        with new_directory(Path(directory)) as partial:
            shutil.copytree(self._exported, partial, dirs_exist_ok=True)

    @property
    def _exported(self) -> Path:
        return self.folder.path / "export"

    def _results(self) -> Results:
        steps = self.steps
        made = steps.conversion.quantized
        seen = steps.conversion.search.smoothed.statistics
        return Results(
            dataset=steps.dataset.card,
            test=steps.dataset.test,
            predictions={name: predict(values) for name, values in self.logits.items()},
            epochs=[EpochRow(epoch=0)],
            observed=list(steps.statistics.ranges()),
            quantized=list(range_rows(seen, made.qparams)),
            tried=list(steps.conversion.search.rows),
            trials=[],
            evaluate=self.figures,
            classes=[],
            reliability=[],
            sensitivity=self._sensitivity(),
            checks=list(self.checks),
            manifest=self.manifest,
        )

    def _sensitivity(self) -> list[SensitivityRow]:
        steps, made = self.steps, self.steps.conversion.quantized
        card = steps.fp32.card
        network = smooth(steps.fp32.module, card.input_shape, made.card.scales)
        val = steps.dataset.val
        return sensitivity_rows(measure_sensitivity(network, card, made.card, made.converted, val, _SENSITIVITY_IMAGES))
