from pathlib import Path

import miniature
import onnx
import pytest
import torch
from exporting import make_networks
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.export import onnx as export_onnx
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_qdq
from ptqflow.models.canonical import canonicalize
from ptqflow.runtime.runtimes import onnxruntime_session


class Mixing(nn.Module):
    """Concatenates outputs that differ 20 times in magnitude; two layers read them, one after pooling."""

    def __init__(self, read_in_fp32: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.near, self.far, self.head = nn.Conv2d(12, 6, 2, 2), nn.Conv2d(12, 6, 1), nn.Linear(6, 6)
        self.read_in_fp32 = read_in_fp32
        with torch.no_grad():
            self.right.weight *= 20

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        pooled = torch.exp(F.max_pool2d(-x, 2)) if self.read_in_fp32 else F.max_pool2d(x, 2)
        return self.head((self.near(x) + self.far(pooled)).mean((2, 3)))


def export(read_in_fp32: bool, inputs: list[Tensor]) -> bytes:
    torch.manual_seed(0)
    model = canonicalize(Mixing(read_in_fp32).eval(), miniature.INPUT_SHAPE)
    networks = make_networks(model, miniature.card(), inputs, activation={"method": "minmax"})
    assert networks.int8.card.scheme.unequal == ("cat",)
    return to_onnx(build_qdq(networks.int8.module, miniature.INPUT_SHAPE), miniature.INPUT_SHAPE, {})


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_inputs_of_unequal_scales_are_concatenated_in_int8_and_no_logit_changes(
    inputs: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, optimized = export(False, inputs), tmp_path / "optimized.onnx"
    monkeypatch.setattr(export_onnx, "round_concatenations", lambda graph: None)
    plain = export(False, inputs)

    session = onnxruntime_session(file, optimized_model_filepath=str(optimized))
    images = {"images": torch.cat(inputs).numpy()}
    assert (session.run(None, images)[0] == onnxruntime_session(plain).run(None, images)[0]).all()
    found = operators(onnx.load(optimized))
    assert "QLinearConcat" in found
    assert "Concat" not in found


def test_a_concatenation_that_something_reads_in_fp32_stays_exact(
    inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(True, inputs)
    monkeypatch.setattr(export_onnx, "round_concatenations", lambda graph: None)
    assert export(True, inputs) == file
