import importlib.util
from pathlib import Path

import miniature
import numpy as np
import onnxruntime
import pytest
import torch
from fresh_process import FULL_RANGE
from quantizing import _engine_of_its_own  # noqa: F401
from tiny_onnx import write_onnx

from ptqflow.benchmark.grid import Files
from ptqflow.benchmark.timed_runtimes import (
    LIBRARIES,
    RUNTIMES,
    Loaded,
    Runtime,
    Task,
    example,
    import_runtime,
    is_installed,
)
from ptqflow.fx.artifact import load_int8


def load(runtime: Runtime, file: Path, engine: str | None = None) -> Loaded:
    loader, versions = import_runtime(Task(runtime, str(file), 2, miniature.INPUT_SHAPE, 1, engine))
    assert versions[LIBRARIES[runtime]]
    return loader()


def test_every_runtime_has_a_library_and_an_absent_one_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(LIBRARIES) == set(RUNTIMES)
    assert is_installed("torch_eager")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not is_installed("openvino")


def test_the_example_is_the_same_for_every_runtime() -> None:
    tasks = [Task(runtime, "", 2, miniature.INPUT_SHAPE, 1) for runtime in RUNTIMES]
    images = [example(task) for task in tasks]
    assert (images[0].shape, images[0].dtype) == ((2, 3, miniature.SIZE, miniature.SIZE), np.float32)
    assert all(np.array_equal(other, images[0]) for other in images)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtimes_of_onnx_files_run_the_example_and_profile_it(runtime: Runtime, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[runtime])
    write_onnx(tmp_path / "network.onnx")
    loaded = load(runtime, tmp_path / "network.onnx")
    task = Task(runtime, "", 2, miniature.INPUT_SHAPE, 1)
    expected = example(task).mean((2, 3))
    output = loaded.run()
    np.testing.assert_allclose(output[0], expected, rtol=1e-4, atol=1e-6)  # type: ignore[index]
    assert loaded.profile()
    assert not loaded.forms


def test_torch_runs_int8_from_its_directory_and_fp32_in_either_memory_format(models: Path, eager: Files) -> None:
    images = torch.from_numpy(example(Task("torch_eager", "", 2, miniature.INPUT_SHAPE, 1)))
    with torch.inference_mode():
        expected = load_int8(models / "int8").module(images)
    assert torch.equal(load("torch_eager", eager.int8, FULL_RANGE).run(), expected)  # type: ignore[arg-type]
    fp32 = load("torch_eager", eager.fp32)
    torch.testing.assert_close(fp32.forms["channels_last"]()(), fp32.run())
    assert fp32.profile()


def test_torchscript_selects_the_engine_for_which_the_network_was_converted(models: Path) -> None:
    engine = load_int8(models / "int8").card.scheme.engine
    torch.backends.quantized.engine = next(
        name for name in torch.backends.quantized.supported_engines if name not in ("none", engine)
    )
    loaded = load("torchscript", models / "export/int8.torchscript.pt", engine)
    assert torch.backends.quantized.engine == engine
    assert loaded.run().shape == (2, 6)  # type: ignore[attr-defined]
    assert not loaded.forms


def test_onnx_runtime_is_limited_to_the_threads_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_onnx(tmp_path / "network.onnx")
    made = []
    create = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    load("onnxruntime", tmp_path / "network.onnx")
    options = made[0].get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
