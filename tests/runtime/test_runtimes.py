from pathlib import Path

import pytest
from exported import change_manifest, manifest
from torch import cpu

import ptqflow
from ptqflow.core.errors import EngineError
from ptqflow.runtime.manifest import read_manifest
from ptqflow.runtime.runtimes import RUNTIMES, find_obstacle


def test_the_first_runtime_without_an_obstacle_is_chosen(pristine: Path) -> None:
    card = read_manifest(pristine)
    usable = [runtime for runtime in RUNTIMES if find_obstacle(runtime, card) is None]

    assert {"onnxruntime", "torchscript"} <= set(usable)
    assert ptqflow.load(pristine).runtime == usable[0]


def test_a_runtime_that_fails_to_load_is_left_out_with_a_warning(pristine: Path, broken_openvino: str) -> None:
    with pytest.warns(UserWarning, match=f"^left out openvino: openvino cannot load .*int8.onnx: {broken_openvino}"):
        classifier = ptqflow.load(pristine)
    assert classifier.runtime == "onnxruntime"
    with pytest.raises(EngineError, match=f"^openvino cannot load .*: {broken_openvino}"):
        ptqflow.load(pristine, "openvino")


def test_a_model_without_onnx_files_runs_in_torch(export: Path) -> None:
    change_manifest(export, files=manifest(export, ["int8.torchscript.pt"]).model_dump()["files"])

    assert ptqflow.load(export).runtime == "torchscript"
    with pytest.raises(EngineError, match=r"onnxruntime cannot run the model here: int8\.onnx was not exported"):
        ptqflow.load(export, "onnxruntime")


def test_an_engine_that_torch_lacks_here_is_named_with_those_it_has(export: Path) -> None:
    change_manifest(export, engine="tpu")

    with pytest.raises(EngineError, match=r"torchscript cannot run .* it needs the engine tpu, and torch has .*x86"):
        ptqflow.load(export, "torchscript")
    assert ptqflow.load(export).runtime != "torchscript"


def test_a_cpu_without_vnni_is_told_where_the_kernels_need_it(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_is_vnni_supported", lambda: False)
    change_manifest(export, needs={"vnni": True})

    with pytest.raises(EngineError, match="on onednn it needs a CPU with VNNI, and this one has none"):
        ptqflow.load(export, "torchscript")
    change_manifest(export, needs={"vnni": False})
    assert ptqflow.load(export, "torchscript").runtime == "torchscript"


def test_where_no_runtime_can_run_a_model_each_says_why(export: Path) -> None:
    change_manifest(export, files={})

    with pytest.raises(EngineError, match=r"no runtime can .*onnxruntime: int8\.onnx was not exported; torchscript: "):
        ptqflow.load(export)


@pytest.mark.parametrize(("runtime", "name"), [("onnxruntime", "int8.onnx"), ("torchscript", "int8.torchscript.pt")])
def test_what_a_runtime_says_of_a_file_that_it_cannot_load_is_one_line(export: Path, runtime: str, name: str) -> None:
    (export / name).write_bytes(b"neither")
    change_manifest(export, files=manifest(export, [name]).model_dump()["files"])

    with pytest.raises(EngineError, match=f"{runtime} cannot load .*{name}: ") as caught:
        ptqflow.load(export, runtime)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
