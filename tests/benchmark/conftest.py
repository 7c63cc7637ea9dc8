"""The miniature network in every form that the benchmark reads."""

import shutil
from pathlib import Path

import miniature
import pytest
import torch
from exported import ENGINE
from fresh_process import collect, convert_params

from ptqflow.benchmark.grid import Files
from ptqflow.convert.quantize import quantize
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import STATE, save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.models.fp32 import WEIGHTS, load_fp32, save_fp32

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _modules_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes find the library and the miniature network."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> Path:
    """models/ as the stages before leave it."""
    folder = tmp_path_factory.mktemp("benchmark")
    train = miniature.split(16)
    inputs = to_input(torch.from_numpy(train.images), miniature.NORMALIZATION)
    save_fp32(folder / "fp32", miniature.residual(len(miniature.CLASSES)), miniature.card(), inputs)
    fp32 = load_fp32(folder / "fp32")
    model, card = fp32.module, fp32.card
    engine = torch.backends.quantized.engine
    quantized = quantize(model, card, convert_params(engine=ENGINE), collect(model, list(inputs.split(8))), train)
    layers = list_layers(model, quantized.converted)
    save_int8(folder / "int8", quantized.prepared, quantized.converted, layers, quantized.card, inputs)

    torch.backends.quantized.engine = engine
    shutil.copytree(pristine, folder / "export")
    return folder


@pytest.fixture
def eager(models: Path) -> Files:
    """The weights that torch_eager reads."""
    return Files(WEIGHTS.path(models / "fp32"), STATE.path(models / "int8"))
