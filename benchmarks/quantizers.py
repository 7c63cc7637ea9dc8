"""NNCF and ONNX Runtime's quantizer: from fp32.onnx and calibration images to an INT8 file."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ptqflow.benchmark.timed_runtimes import Runtime
from ptqflow.runtime.manifest import INPUT

Images = NDArray[np.float32]
"""(N, C, H, W), normalized."""
Files = dict[Runtime, Path]
"""The file that each runtime reads."""

BATCH = 32  # with images one by one, NNCF takes the mean of narrower ranges, and has half as many decibels
NNCF, ORT_MINMAX, ORT_PERCENTILE = "NNCF", "ONNX Runtime's quantizer, MinMax", "ONNX Runtime's quantizer, Percentile"


def quantize_with_nncf(fp32: Path, images: Images, path: Path, **options: Any) -> Files:
    """All that is not in `options` as by default."""
    path = path.with_suffix(".xml")
    batches = in_batches(images)
    model = openvino.Core().read_model(fp32)
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches), **options)
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return {"openvino": path}


def quantize_with_onnxruntime(
    fp32: Path, images: Images, path: Path, method: CalibrationMethod, activation: QuantType = QuantType.QUInt8
) -> Files:
    """Prepared as its manual advises; QDQ, signed weights with a scale for each channel, unsigned activations.

    With signed activations, its default, x86 takes more than twice as long.
    """
    path, prepared = path.with_suffix(".onnx"), path.with_suffix(".prepared.onnx")
    quant_pre_process(fp32, prepared)
    quantize_static(
        prepared,
        path,
        Reader(images),
        QuantFormat.QDQ,
        per_channel=True,
        activation_type=activation,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        extra_options={"CalibStridedMinMax": 1},  # of all methods: it keeps the activations of one batch, not of all
    )
    return {"onnxruntime": path, "openvino": path}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Calibration images as ONNX Runtime's quantizer reads them."""

    def __init__(self, images: Images) -> None:
        self._batches = in_batches(images)
        self._left: Iterator[Images] = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read these batches next."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Images] | None:
        """Return the next input, None after the last."""
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}


def in_batches(images: Images) -> list[Images]:
    return np.array_split(images, max(1, len(images) // BATCH))


PEERS: dict[str, Callable[[Path, Images, Path], Files]] = {
    NNCF: quantize_with_nncf,
    "NNCF, mixed preset, full bias correction": partial(
        quantize_with_nncf, preset=nncf.QuantizationPreset.MIXED, fast_bias_correction=False
    ),
    "NNCF, transformer": partial(quantize_with_nncf, model_type=nncf.ModelType.TRANSFORMER),
    ORT_MINMAX: partial(quantize_with_onnxruntime, method=CalibrationMethod.MinMax),
    ORT_PERCENTILE: partial(quantize_with_onnxruntime, method=CalibrationMethod.Percentile),
}
