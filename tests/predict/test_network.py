from pathlib import Path

import miniature
import pytest
import torch
from fresh_process import collect, convert_params
from quantizing import _engine_of_its_own, inputs  # noqa: F401
from torch import Tensor

from ptqflow.convert.quantize import quantize
from ptqflow.core.artifacts import sha256_file
from ptqflow.core.paths import FP32, INT8, INT8_UNCALIBRATED
from ptqflow.data.dataset import DatasetCard
from ptqflow.data.logits import NETWORKS
from ptqflow.fx.artifact import save_int8
from ptqflow.models.fp32 import load_fp32, save_fp32
from ptqflow.predict.network import open_network

FILES = {
    "fp32": FP32 / "weights.safetensors",
    "int8_uncalibrated": INT8_UNCALIBRATED / "state.pt",
    "int8": INT8 / "state.pt",
}


@pytest.fixture
def images(inputs: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:  # noqa: F811
    """Write the three networks as the stages do, below the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_fp32(FP32, miniature.residual(6), miniature.card(), inputs[0])
    fp32 = load_fp32(FP32)
    for directory, statistics in ((INT8, collect(fp32.module, inputs)), (INT8_UNCALIBRATED, None)):
        made = quantize(fp32.module, fp32.card, convert_params(min_sqnr_db=7.5), statistics, miniature.split(40))
        save_int8(directory, made.prepared, made.converted, [], made.card, inputs[0])
    return inputs[0]


def test_each_network_is_that_of_its_stage_and_its_logits_are_described_by_the_files(images: Tensor) -> None:
    fp32 = load_fp32(FP32)
    dataset = DatasetCard.model_construct(sha256={"test": "5" * 64})
    found = {name: open_network(name) for name in NETWORKS}

    with torch.inference_mode():
        assert torch.equal(found["fp32"].module(images), fp32.module(images))
        assert not torch.equal(found["int8"].module(images), found["int8_uncalibrated"].module(images))
    for name, network in found.items():
        card = network.describe_logits(dataset, 16)
        assert (card.network, card.classes, card.batch_size) == (name, miniature.CLASSES, 16)
        assert card.test_sha256 == "5" * 64
        assert card.fp32_sha256 == sha256_file(FILES["fp32"])
        assert card.model_sha256 == sha256_file(FILES[name])
        assert card.model_bytes == FILES[name].stat().st_size
        assert card.min_sqnr_db == (7.5 if name == "int8" else None)
