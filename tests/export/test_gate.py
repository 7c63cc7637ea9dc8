from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from exporting import ROOT, Exported

from ptqflow.core.errors import ModelError
from ptqflow.export.gate import first_divergence
from ptqflow.export.qdq import Rounding, StepOutput
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT


def tamper(file: Path, initializer: str, factor: float) -> None:
    model = onnx.load(file)
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name == initializer:
            changed = (onnx.numpy_helper.to_array(tensor) * factor).astype(np.float32)
            model.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(changed, initializer))
    onnx.save(model, file)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_a_graph_with_a_wrong_layer_fails_and_the_layer_is_named(exported: Exported, layer: str) -> None:
    tamper(exported.directory / INT8_ONNX, f"{layer}.scale", -30)
    exported.describe()
    with pytest.raises(ModelError, match=f"^int8.onnx in onnxruntime .* the first layer that differs is {layer}$"):
        exported.check()


def test_files_that_must_be_equal_run_on_the_first_images_and_int8_onnx_on_all(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptqflow.export.gate._EQUAL_IMAGES", 20)
    assert [(check.file, check.images) for check in exported.check()] == [
        (INT8_TORCHSCRIPT, 20),
        (INT8_ONNX, 50),
        (FP32_ONNX, 20),
    ]


def test_the_progress_of_a_file_is_that_of_its_process(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    advances: list[int] = []

    @contextmanager
    def bar(total: int, label: str, unit: str) -> Iterator[SimpleNamespace]:
        assert (total, label, unit) == (50, "int8.onnx in onnxruntime", "image")
        yield SimpleNamespace(update=advances.append)

    monkeypatch.setattr("ptqflow.export.gate.progress_bar", bar)
    gate = replace(exported.gate, batch_size=20)
    assert len(gate.replay("onnxruntime", INT8_ONNX, 50)) == 50
    assert advances == [20, 20, 10]


def test_changed_bytes_are_not_run(exported: Exported) -> None:
    (exported.directory / INT8_TORCHSCRIPT).write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"does not run in torchscript: export: .*int8.torchscript.pt has changed"):
        exported.check()


def test_a_process_that_a_signal_ends_is_reported_with_its_name(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'src'}")
    with pytest.raises(ModelError, match=r"^int8.onnx does not run in onnxruntime: its process was ended by SIGILL$"):
        exported.gate.replay("onnxruntime", INT8_ONNX, 1)


def test_the_first_layer_that_differs_is_that_with_more_than_a_hundredth_of_its_values_two_steps_away() -> None:
    expected = {name: StepOutput(Rounding(0.5, 0), np.zeros(200, np.float32)) for name in "abc"}
    found = {name: np.zeros(200, np.float32) for name in "abc"}
    found["a"][:2] = 9  # 1 % of the values
    found["b"][:] = 1.0  # two steps
    assert first_divergence(expected, found) is None
    found["b"][:3] = 1.5
    found["c"][:] = 9
    assert first_divergence(expected, found) == "b"
    del found["b"]
    assert first_divergence(expected, found) == "c"
