"""The miniature network in every form that the benchmark reads."""

import hashlib
import warnings
from pathlib import Path

import miniature
import pytest
import torch
from evaluation import evaluate_metrics
from fresh_process import ENGINES, collect, convert_params
from tiny_onnx import write_onnx

from ptqflow.benchmark.grid import Files
from ptqflow.convert.quantize import quantize
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import STATE, save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.models.fp32 import WEIGHTS, load_fp32, save_fp32
from ptqflow.runtime.manifest import (
    FP32_ONNX,
    INT8_ONNX,
    INT8_TORCHSCRIPT,
    CalibrationCard,
    FileCard,
    InputCard,
    LayerCard,
    Manifest,
    Needs,
    write_manifest,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _modules_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes find the library and the miniature network."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")


def file_card(path: Path) -> FileCard:
    data = path.read_bytes()
    return FileCard(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ as the stages before leave it; both ONNX files hold the same network, which is all that timing needs."""
    folder = tmp_path_factory.mktemp("benchmark")
    train = miniature.split(16)
    inputs = to_input(torch.from_numpy(train.images), miniature.NORMALIZATION)
    save_fp32(folder / "fp32", miniature.residual(len(miniature.CLASSES)), miniature.card(), inputs)
    fp32 = load_fp32(folder / "fp32")
    model, card = fp32.module, fp32.card
    engine = torch.backends.quantized.engine
    quantized = quantize(model, card, convert_params(), collect(model, list(inputs.split(8))), train)
    layers = list_layers(model, quantized.converted)
    save_int8(folder / "int8", quantized.prepared, quantized.converted, layers, quantized.card, inputs)

    export = folder / "export"
    export.mkdir()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.trace(quantized.converted, inputs[:2])).save(export / INT8_TORCHSCRIPT)
    torch.backends.quantized.engine = engine
    write_onnx(export / FP32_ONNX)
    write_onnx(export / INT8_ONNX)
    manifest = Manifest(
        ptqflow_version="0.1.0",
        architecture=card.name,
        stem=card.stem,
        classes=card.classes,
        image_size=card.image_size,
        input=InputCard.of(card.normalization),
        engine=ENGINES[0],
        needs=Needs(vnni=True),
        torch_version=torch.__version__,
        params={},
        dataset_sha256={},
        code_sha256="",
        model_code_sha256=None,
        weights_sha256="",
        calibration=CalibrationCard(images=16, indices_sha256=""),
        layers=tuple(
            LayerCard(
                name=layer.name, operation=layer.operation, precision=layer.precision, scale=None, zero_point=None
            )
            for layer in layers
        ),
        files={name: file_card(export / name) for name in (FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT)},
        min_agreement=0.995,
        metrics=evaluate_metrics(),
    )
    write_manifest(export, manifest)
    return folder


@pytest.fixture
def eager(models: Path) -> Files:
    """The weights that torch_eager reads."""
    return Files(WEIGHTS.path(models / "fp32"), STATE.path(models / "int8"))
