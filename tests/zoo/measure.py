"""The fidelity of a network of the zoo on INT8: in torch, in ONNX Runtime, and quantized by ONNX Runtime itself."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.convert.method_search import search_methods
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.convert.sensitivity import Sensitivity, measure_sensitivity
from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import Normalization
from ptqflow.core.params import read_params
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.dataset import Split, digests_of
from ptqflow.data.preprocessing import to_input
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.fx.artifact import load_int8, save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.fp32 import Fp32Model, ModelCard, load_fp32, save_fp32
from ptqflow.runtime.manifest import INPUT
from ptqflow.runtime.runtimes import onnxruntime_session

ROOT = Path(__file__).parents[2]
SIZE, CLASSES = 32, tuple("abcdef")
INPUT_SHAPE = (3, SIZE, SIZE)
NORMALIZATION = Normalization(mean=(0.5,) * 3, std=(0.25,) * 3)
CALIBRATION, TESTED, BATCH, STEPS, SENSITIVITY = 320, 240, 32, 50, 64
"""Images of the calibration, of the comparison, in a batch; steps of the training; images of the sensitivity."""
PARAMS = read_params("convert", ConvertParams, ROOT / "params.yaml")


class OnnxRuntimeError(Exception):
    """ONNX Runtime cannot quantize a network, or not run a file."""


@dataclass(frozen=True)
class Measured:
    """A network on INT8, by its SQNR to FP32 in decibels over all images together."""

    torch_db: float
    onnx_db: float | None
    """Of the exported file in ONNX Runtime; None where ONNX has no operator for an operation."""
    onnxruntime_db: float | None
    """Of what ONNX Runtime's own quantizer makes of the FP32 file; None without such a file, or where it fails."""
    reloaded_equally: bool
    """Whether the logits are the same to the bit after writing and reading."""
    sensitivities: dict[str, Sensitivity]
    note: str
    """Why a file is missing, or empty."""


def measure(name: str, directory: Path) -> Measured:
    """Train a network of the zoo for a moment and quantize it with the default params.

    Args:
        name: of the network.
        directory: that is written into.

    Raises:
        ModelError: it is refused.
    """
    torch.set_num_threads(1)
    (train, calibration), (test, images) = gratings(CALIBRATION, 0), gratings(TESTED, 1)
    model, card = train_briefly(f"zoo.networks:{name}", train, calibration)
    save_fp32(directory / "fp32", model, card, calibration[:BATCH])
    loaded = load_fp32(directory / "fp32")
    fp32, card = loaded.module, loaded.card
    rows = np.arange(CALIBRATION).reshape(-1, BATCH)
    statistics = collect_statistics(observe(fp32, INPUT_SHAPE), list(calibration.split(BATCH)), rows)
    params = search_methods(Fp32Model(fp32, card), PARAMS, statistics, train, lambda line: None).params
    made = quantize(fp32, card, params, statistics, train)
    layers = list_layers(fp32, made.converted)
    save_int8(directory / "int8", made.prepared, made.converted, layers, made.card, calibration[:BATCH])
    with torch.inference_mode():
        exact, logits = fp32(images), made.converted(images)
        reloaded = load_int8(directory / "int8").module(images)
    sensitivities = measure_sensitivity(fp32, card, made.card, made.converted, test, SENSITIVITY)
    onnx_db, own_db, note = None, None, ""
    try:
        onnx_db = sqnr_db(run_file(to_onnx(build_qdq(made.converted, INPUT_SHAPE), INPUT_SHAPE, {}), images), exact)
        (directory / "fp32.onnx").write_bytes(to_onnx(fp32, INPUT_SHAPE, {}))
        own_db = sqnr_db(run_file(quantize_in_onnxruntime(directory / "fp32.onnx", calibration), images), exact)
    except (ModelError, OnnxRuntimeError) as error:
        note = str(error)
    return Measured(sqnr_db(logits, exact), onnx_db, own_db, torch.equal(logits, reloaded), sensitivities, note)


@cache
def gratings(count: int, seed: int, size: int = SIZE) -> tuple[Split, Tensor]:
    """Return images of waves, whose direction is their class, and the same as input."""
    random, (y, x) = np.random.default_rng(seed), np.mgrid[:size, :size] / size
    labels = np.arange(count) % len(CLASSES)
    angles, phases, heights = (
        np.pi * labels / len(CLASSES),
        random.uniform(0, 6.3, count),
        random.uniform(0.1, 0.3, count),
    )
    rise = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
    waves = np.sin(19 * rise + phases[:, None, None]) * heights[:, None, None]
    colours = waves[..., None] * random.uniform(0.5, 1, (count, 1, 1, 3))
    values = 0.5 + colours + random.normal(0, 0.08, (count, size, size, 3))
    images = (values.clip(0, 1) * 255).astype(np.uint8)
    split = Split(images, labels.astype(np.int64), digests_of(images))
    return split, to_input(torch.from_numpy(images), NORMALIZATION)


def train_briefly(
    name: str, train: Split, inputs: Tensor, rate: float = 3e-3, steps: int = STEPS
) -> tuple[nn.Module, ModelCard]:
    """Build a network by its `model.name` and train it; return it in evaluation mode, with its card."""
    torch.manual_seed(0)
    model = build_model(name, "standard", len(CLASSES), tuple(inputs.shape[1:])).train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    labels = torch.from_numpy(train.labels)
    for step in range(steps):
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(step))[:BATCH]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    card = ModelCard(
        name=name,
        stem="standard",
        classes=CLASSES,
        preprocessing=Preprocessing.default((inputs.shape[2], inputs.shape[3])),
        normalization=NORMALIZATION,
        code_sha256=hash_code(name),
    )
    return model.eval(), card


def sqnr_db(logits: Tensor, reference: Tensor) -> float:
    """Return the power of the reference over that of the difference, over all images together."""
    noise = (logits - reference).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))


def run_file(file: bytes, images: Tensor) -> Tensor:
    """Return the logits of an ONNX file.

    Raises:
        OnnxRuntimeError: it does not run.
    """
    try:
        session = onnxruntime_session(file, intra_op_num_threads=1)
        return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])
    except Exception as error:  # it raises classes of its own
        raise OnnxRuntimeError(f"the file does not run in ONNX Runtime: {' '.join(str(error).split())}") from error


def quantize_in_onnxruntime(fp32: Path, calibration: Tensor) -> bytes:
    """Return what ONNX Runtime's own quantizer makes of an FP32 file.

    Raises:
        OnnxRuntimeError: it fails, or its file does not load.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration.split(BATCH))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch.numpy()}

    own = fp32.with_name("own.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    try:
        quantize_static(fp32, own, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
        onnxruntime_session(own.read_bytes())
    except Exception as error:  # it raises classes of its own, and Python's
        raise OnnxRuntimeError(f"ONNX Runtime's quantizer fails: {' '.join(str(error).split())}") from error
    return own.read_bytes()
