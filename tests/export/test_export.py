import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import miniature
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exporting import PARAMS, ROOT, WEIGHTS_SHA256, Exported, make_networks
from fresh_process import SCHEMES
from numpy.typing import NDArray
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.nn import functional as F

import ptqflow
from ptqflow.core.errors import ModelError
from ptqflow.export.export import check_files, write_files
from ptqflow.export.gate import Gate
from ptqflow.export.manifest import PACKAGE
from ptqflow.export.onnx import to_onnx
from ptqflow.export.qdq import build_twin
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.inference.classifier import softmax
from ptqflow.models.architecture import build_model
from ptqflow.models.fp32 import ModelCard
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, VERSION, read_manifest
from ptqflow.runtime.runtimes import onnxruntime_session


def run_onnx(file: Path, images: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return torch.from_numpy(onnxruntime.InferenceSession(file, options).run(None, {"images": images.numpy()})[0])


def tamper(file: Path, initializer: str, factor: float) -> None:
    model = onnx.load(file)
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name == initializer:
            changed = (onnx.numpy_helper.to_array(tensor) * factor).astype(np.float32)
            model.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(changed, initializer))
    onnx.save(model, file)


def test_every_file_passes_and_the_figures_say_so(exported: Exported) -> None:
    figures = check_files(exported.gate, exported.networks, exported.dataset.test, PARAMS)
    assert figures[INT8_TORCHSCRIPT]["bit_exact"] is True
    assert figures[INT8_ONNX]["agreement"] >= 0.98  # one of 50 images may differ
    assert figures[FP32_ONNX]["agreement"] == 1
    assert figures[INT8_ONNX]["p"] > 0.05
    assert set(figures) == {INT8_TORCHSCRIPT, INT8_ONNX, FP32_ONNX}


def test_every_file_takes_any_number_of_images(exported: Exported, inputs: list[Tensor]) -> None:
    with without_torch_warnings():
        script = torch.jit.load(exported.directory / INT8_TORCHSCRIPT)
    for count in (1, 3, 40):
        images = torch.cat(inputs)[:count]
        with torch.inference_mode():
            int8, fp32 = exported.networks.int8.module(images), exported.networks.fp32(images)
            assert torch.equal(script(images), int8)
        torch.testing.assert_close(run_onnx(exported.directory / INT8_ONNX, images), int8, atol=0.05, rtol=0)
        torch.testing.assert_close(run_onnx(exported.directory / FP32_ONNX, images), fp32, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("engine", "reduce_range"), SCHEMES)
def test_the_graph_computes_what_the_kernels_of_every_engine_do(
    engine: str, reduce_range: bool, per_channel: bool, inputs: list[Tensor]
) -> None:
    """Also above 127 where 7 bits are used: the images are brighter than those that calibrated."""
    torch.manual_seed(0)
    model = miniature.residual(6).eval()
    changes = {"activation": {"reduce_range": reduce_range}, "weight": {"per_channel": per_channel}}
    networks = make_networks(model, miniature.card(), inputs, engine=engine, head="int8", **changes)
    module = networks.int8.module
    images = 1.5 * torch.cat(inputs)
    session = onnxruntime_session(to_onnx(build_twin(module, miniature.SIZE), miniature.SIZE, {}))
    with torch.inference_mode():
        expected = module(images)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    step = float(module.fc.scale)
    assert ((found - expected).abs() > 1.5 * step).float().mean() < 0.02
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.95


def test_what_torch_has_no_kernel_for_is_exported_between_int8_layers(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    networks = make_networks(miniature.normed(6).eval(), miniature.card("normed"), inputs)
    module = networks.int8.module
    session = onnxruntime.InferenceSession(to_onnx(build_twin(module, miniature.SIZE), miniature.SIZE, {}))
    with torch.inference_mode():
        expected = module(inputs[0]).numpy()
    np.testing.assert_allclose(session.run(None, {"images": inputs[0].numpy()})[0], expected, atol=0.02)


def test_the_graph_of_a_resnet18_is_clean_and_small_and_fuses(inputs: list[Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", "standard", 10, 32).eval()
    card = ModelCard(
        name="resnet18",
        stem="standard",
        classes=tuple("0123456789"),
        image_size=32,
        normalization=miniature.NORMALIZATION,
        code_sha256=None,
    )
    images = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    module = make_networks(model, card, images, fuse_additions=False).int8.module
    serialized = to_onnx(build_twin(module, 32), 32, {})
    assert len(serialized) < 12e6
    graph = onnx.load_from_string(serialized).graph
    operators = {node.op_type for node in graph.node}
    assert operators == {
        *("QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten"),
        "Gemm",
    }
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    dequantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {kinds[dequantized[weight]] for weight in weights} == {onnx.TensorProto.INT8}

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(serialized, options)
    optimized = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (optimized.count("QLinearConv"), optimized.count("QLinearAdd")) == (20, 8)
    assert (optimized.count("Conv"), optimized.count("QuantizeLinear")) == (0, 1)


@pytest.mark.slow
def test_two_processes_write_equal_bytes(tmp_path: Path) -> None:
    program = f"""
import sys; sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
import hashlib, miniature, torch, pathlib
from exporting import PARAMS, make_networks
from ptqflow.export.export import write_files
torch.manual_seed(0)
networks = make_networks(miniature.residual(6).eval(), miniature.card(), [torch.rand(8, 3, 8, 8)])
write_files(pathlib.Path(sys.argv[1]), networks, PARAMS)
"""
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / folder)]
        subprocess.run(command, check=True, capture_output=True)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {INT8_ONNX, FP32_ONNX, INT8_TORCHSCRIPT}


def test_torchscript_has_equal_bytes_also_where_a_process_writes_it_again(exported: Exported) -> None:
    again = [to_torchscript(exported.networks.int8.module, miniature.SIZE) for _ in range(2)]
    assert {(exported.directory / INT8_TORCHSCRIPT).read_bytes(), *again} == {again[0]}


@dataclass(frozen=True)
class Answering(Gate):
    """Runs no file: gives as many wrong answers as it is told."""

    wrong: int = 0

    def replay(self, runtime: str, name: str, count: int, *options: str) -> NDArray[np.float64]:
        answers = one_hot(self.labels)
        answers[: self.wrong] = np.roll(answers[: self.wrong], 1, axis=1)
        return answers


def one_hot(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.eye(len(miniature.CLASSES))[labels]


@pytest.mark.parametrize(
    ("runtime", "wrong", "passes"),
    [
        ("onnxruntime", 5, True),
        ("onnxruntime", 6, False),
        ("openvino", 20, True),
        ("openvino", 21, False),
    ],
)
def test_openvino_may_differ_for_2_percent_of_the_images_and_onnx_runtime_for_half_a_percent(
    tmp_path: Path, runtime: str, wrong: int, passes: bool
) -> None:
    labels = np.arange(1000) % len(miniature.CLASSES)
    reference = one_hot(labels)
    reference[:wrong] = np.roll(reference[:wrong], 2, axis=1)  # as wrong, with another class: no accuracy is lost
    gate = Answering(tmp_path, tmp_path, labels, 16, wrong=wrong)
    if passes:
        assert gate.require_agreement(runtime, INT8_ONNX, torch.from_numpy(reference), 0.995)["agreement"] < 1
    else:
        with pytest.raises(ModelError, match=f"^int8.onnx in {runtime} predicts what torch predicts for"):
            gate.require_agreement(runtime, INT8_ONNX, torch.from_numpy(reference), 0.995)


def test_openvino_passes_the_gate_and_predict_runs_what_the_gate_ran(exported: Exported) -> None:
    pytest.importorskip("openvino")
    figures = check_files(exported.gate, exported.networks, exported.dataset.test, PARAMS)
    assert figures[INT8_ONNX]["openvino"]["agreement"] >= 0.98
    logits = exported.gate.replay("openvino", INT8_ONNX, 50)
    probabilities = ptqflow.load(exported.directory, "openvino")(np.asarray(exported.dataset.test.images))
    assert np.array_equal(softmax(logits), probabilities)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_a_graph_with_a_wrong_layer_fails_and_the_layer_is_named(exported: Exported, layer: str) -> None:
    tamper(exported.directory / INT8_ONNX, f"{layer}.scale", -30)
    exported.describe()
    with pytest.raises(ModelError, match=f"^int8.onnx in onnxruntime .* the first layer that differs is {layer}$"):
        check_files(exported.gate, exported.networks, exported.dataset.test, PARAMS)


def test_torchscript_of_another_network_fails(exported: Exported, inputs: list[Tensor]) -> None:
    torch.manual_seed(1)
    other = make_networks(miniature.residual(6).eval(), miniature.card(), inputs)
    script = to_torchscript(other.int8.module, miniature.SIZE)
    (exported.directory / INT8_TORCHSCRIPT).write_bytes(script)
    exported.describe()
    with pytest.raises(ModelError, match="gives other logits than the INT8 model, first for test image 0"):
        check_files(exported.gate, exported.networks, exported.dataset.test, PARAMS)


def test_changed_bytes_are_not_run(exported: Exported) -> None:
    (exported.directory / INT8_TORCHSCRIPT).write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"does not run in torchscript: export: .*int8.torchscript.pt has changed"):
        check_files(exported.gate, exported.networks, exported.dataset.test, PARAMS)


class Unknown(nn.Module):
    """Runs what ONNX has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.odd = Odd()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.odd(self.conv(x)).mean((2, 3)))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operation_that_onnx_does_not_know_is_named_with_its_layer_and_torchscript_does_without(
    inputs: list[Tensor], tmp_path: Path
) -> None:
    networks = make_networks(Unknown().eval(), miniature.card(), inputs)
    with pytest.raises(ModelError, match=r"^odd \(aten::special_bessel_j0\) .* set export.onnx=false$"):
        write_files(tmp_path, networks, PARAMS)
    write_files(tmp_path, networks, PARAMS.model_copy(update={"onnx": False}))
    assert INT8_TORCHSCRIPT in {file.name for file in tmp_path.iterdir()}


def test_the_manifest_tells_what_the_files_are(exported: Exported) -> None:
    manifest = read_manifest(exported.directory)
    assert manifest.classes == miniature.CLASSES
    assert manifest.metrics == {"int8": {"top1": 0.5}}
    assert set(manifest.files) == {INT8_ONNX, FP32_ONNX, INT8_TORCHSCRIPT}
    assert manifest.dataset_sha256 == exported.dataset.card.sha256
    assert (manifest.calibration.images, len(manifest.code_sha256)) == (40, 64)
    assert "path" not in manifest.params["data"]
    layers = {layer.name: layer for layer in manifest.layers}
    module = exported.networks.int8.module
    assert layers["conv2"].scale == pytest.approx(float(module.conv2.scale))
    assert (layers["fc"].precision, layers["fc"].scale) == ("fp32", None)
    assert manifest.weights_sha256 == WEIGHTS_SHA256
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("weights", "recorded"),
    [(None, {"weights": None}), ("IMAGENET1K_V1", {"weights": "IMAGENET1K_V1"}), ("/home/me/IMAGENET1K_V1", {})],
)
def test_the_manifest_names_published_weights_and_no_file_of_this_machine(
    exported: Exported, weights: str | None, recorded: dict[str, str | None]
) -> None:
    params = YAML(typ="safe").load(Path("params.yaml"))
    params["model"]["weights"] = weights
    YAML().dump(params, Path("params.yaml"))
    exported.describe()
    found = read_manifest(exported.directory).params["model"]
    assert {key: value for key, value in found.items() if key == "weights"} == recorded


def test_the_hash_of_the_code_is_that_of_the_whole_package(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_manifest(exported.directory).code_sha256
    package = shutil.copytree(PACKAGE, tmp_path / "ptqflow")
    monkeypatch.setattr("ptqflow.export.manifest.PACKAGE", package)
    exported.describe()
    assert read_manifest(exported.directory).code_sha256 == before

    with (package / "convert/ranges.py").open("a") as module:
        module.write("# edited\n")
    exported.describe()
    assert read_manifest(exported.directory).code_sha256 != before


def test_the_graph_says_how_images_become_its_input(exported: Exported) -> None:
    model = onnx.load(exported.directory / INT8_ONNX)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["input"])["mean"] == list(miniature.NORMALIZATION.mean)
    assert json.loads(metadata["classes"]) == list(miniature.CLASSES)


class Pooled(nn.Module):
    """Pools to a size that does not divide that of its input, and to a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.fc = nn.Linear(4 * 81, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(self.conv(x), 2), 9)
        return self.fc(torch.flatten(x, 1))


def test_adaptive_pooling_takes_the_same_means_for_any_sizes(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Pooled().eval()
    session = onnxruntime.InferenceSession(to_onnx(model, miniature.SIZE, {}))
    with torch.inference_mode():
        expected = model(inputs[0]).numpy()
    np.testing.assert_allclose(session.run(None, {"images": inputs[0].numpy()})[0], expected, atol=1e-5)


class Twice(nn.Module):
    """Runs a layer twice, on inputs of different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.hardswish(self.conv(self.conv(x))).mean((2, 3)))


def test_a_layer_that_runs_twice_is_exported_twice(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    module = make_networks(Twice().eval(), miniature.card(), inputs).int8.module
    session = onnxruntime.InferenceSession(to_onnx(build_twin(module, miniature.SIZE), miniature.SIZE, {}))
    with torch.inference_mode():
        expected = module(inputs[0]).numpy()
    np.testing.assert_allclose(session.run(None, {"images": inputs[0].numpy()})[0], expected, atol=0.02)
