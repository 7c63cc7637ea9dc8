from pathlib import Path

import numpy as np
import pytest
from exported import change_manifest, manifest
from onnx import TensorProto, helper, numpy_helper
from torch import backends

import ptqflow
from ptqflow.core.errors import EngineError
from ptqflow.runtime.manifest import read_manifest
from ptqflow.runtime.runtimes import (
    BY_DEFAULT,
    RUNTIMES,
    find_obstacle,
    onnxruntime_session,
    open_file,
    openvino_model,
    torchscript_module,
)


def test_the_first_runtime_of_those_by_default_without_an_obstacle_is_chosen(pristine: Path) -> None:
    card = read_manifest(pristine)
    usable = [runtime for runtime in RUNTIMES if find_obstacle(runtime, card) is None]

    assert {"onnxruntime", "torchscript"} <= set(usable)
    assert ptqflow.load(pristine).runtime == next(runtime for runtime in BY_DEFAULT if runtime in usable)


def test_a_runtime_that_fails_to_load_is_skipped_with_a_warning(pristine: Path, broken_openvino: str) -> None:
    with pytest.warns(UserWarning, match=f"^skipped openvino: openvino cannot load .*int8.onnx: {broken_openvino}"):
        classifier = ptqflow.load(pristine)
    assert classifier.runtime == "onnxruntime"
    with pytest.raises(EngineError, match=f"^openvino cannot load .*: {broken_openvino}"):
        ptqflow.load(pristine, "openvino")


def test_a_torchscript_file_is_run_only_on_request(export: Path) -> None:
    change_manifest(export, files=manifest(export, ["int8.torchscript.pt"]).model_dump()["files"])

    with pytest.raises(
        EngineError, match=r"no runtime can .*; torchscript runs only on request, since .* trust its author"
    ):
        ptqflow.load(export)
    assert ptqflow.load(export, "torchscript").runtime == "torchscript"
    with pytest.raises(EngineError, match=r"onnxruntime cannot run the model here: int8\.onnx was not exported"):
        ptqflow.load(export, "onnxruntime")


def test_an_engine_that_torch_lacks_here_is_named_with_those_it_has(export: Path) -> None:
    change_manifest(export, engine="tpu")

    with pytest.raises(EngineError, match=r"torchscript cannot run .* it needs the engine tpu, and torch has .*x86"):
        ptqflow.load(export, "torchscript")
    assert ptqflow.load(export).runtime != "torchscript"


def test_a_cpu_without_vnni_is_reported_if_the_kernels_need_it(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptqflow.core.engines.is_x86_without", lambda _: True)
    change_manifest(export, needs={"vnni": True})

    with pytest.raises(EngineError, match="on onednn it needs a CPU with VNNI, and this one has none"):
        ptqflow.load(export, "torchscript")
    change_manifest(export, needs={"vnni": False})
    assert ptqflow.load(export, "torchscript").runtime == "torchscript"


@pytest.mark.parametrize("lacks", [True, False])
def test_openvino_is_skipped_where_its_kernels_would_overflow(
    export: Path, monkeypatch: pytest.MonkeyPatch, lacks: bool
) -> None:
    monkeypatch.setattr("ptqflow.runtime.runtimes.is_x86_without", lambda *_: lacks)

    change_manifest(export, needs={"vnni": True})
    obstacle = find_obstacle("openvino", read_manifest(export))
    assert (obstacle is not None and "a CPU without VNNI" in obstacle) is lacks
    change_manifest(export, needs={"vnni": False})
    assert find_obstacle("openvino", read_manifest(export)) is None


def test_if_no_runtime_can_run_a_model_the_reason_of_each_is_reported(export: Path) -> None:
    change_manifest(export, files={})

    with pytest.raises(
        EngineError, match=r"no runtime can .*openvino: .*; onnxruntime: int8\.onnx was not exported\); "
    ):
        ptqflow.load(export)


@pytest.mark.parametrize(("runtime", "name"), [("onnxruntime", "int8.onnx"), ("torchscript", "int8.torchscript.pt")])
def test_the_message_of_a_runtime_that_cannot_load_a_file_is_one_line(export: Path, runtime: str, name: str) -> None:
    (export / name).write_bytes(b"neither")
    change_manifest(export, files=manifest(export, [name]).model_dump()["files"])

    with pytest.raises(EngineError, match=f"{runtime} cannot load .*{name}: ") as caught:
        ptqflow.load(export, runtime)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_of_a_session_are_set(pristine: Path, tmp_path: Path) -> None:
    session = onnxruntime_session(pristine / "int8.onnx", intra_op_num_threads=1, enable_profiling=True)
    assert session.get_session_options().intra_op_num_threads == 1
    assert Path(session.end_profiling()).is_file()


def test_onnxruntime_leaves_the_weights_of_a_layer_between_int8_steps_fp32() -> None:
    """Its own optimizer rounds them, with one scale for a large and a small channel."""
    weight, ones = np.array([1.0, 0.001], np.float32).reshape(2, 1, 1, 1), np.ones((1, 1, 4, 4), np.float32)
    steps = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "fine", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "fine", "zero"], ["z"]),
    ]
    values = {"scale": np.float32(1 / 255), "fine": np.float32(0.0005), "zero": np.uint8(0), "weight": weight}
    graph = helper.make_graph(
        steps,
        "kept",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ones.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = onnxruntime_session(model.SerializeToString()).run(None, {"images": ones})[0]
    np.testing.assert_allclose(found[0, 1], 0.001, rtol=0.01)


def test_openvino_computes_fp32_and_takes_one_shape_on_request(pristine: Path) -> None:
    pytest.importorskip("openvino")
    compiled = openvino_model(pristine / "int8.onnx", shape=(2, 3, 8, 8), INFERENCE_NUM_THREADS="1")
    assert list(compiled.input(0).shape) == [2, 3, 8, 8]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert openvino_model(pristine / "int8.onnx").input(0).partial_shape[0].is_dynamic


@pytest.mark.parametrize(
    "content", [b'node { name: "\x1b[2K" ', b"\x01\xf3\x1b[2K", b"<?xml version='1.0'?><net name='\x1b[2K'/>"]
)
def test_openvino_reads_a_file_as_onnx_alone_and_prints_nothing_of_it(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "int8.onnx").write_bytes(content)
    with pytest.raises(EngineError) as error:
        open_file(tmp_path / "int8.onnx", "openvino", "x86")
    assert str(error.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_torchscript_selects_the_engine_of_an_int8_network_alone(
    pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.quantized, "engine", "fbgemm")
    torchscript_module(pristine / "int8.torchscript.pt", None)
    assert backends.quantized.engine == "fbgemm"
    torchscript_module(pristine / "int8.torchscript.pt", "onednn")
    assert backends.quantized.engine == "onednn"
