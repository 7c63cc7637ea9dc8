"""An exported model from a stranger, all hashes right: one line for what is no model, nothing of it on the terminal."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import miniature
import numpy as np
import onnx
import pytest
import torch
from exported import change_manifest
from onnx import TensorProto, helper
from torch import Tensor, nn

from ptqflow import cli
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.runtime.manifest import INT8_ONNX, INT8_TORCHSCRIPT, describe_file, read_manifest

CLASSES = len(miniature.CLASSES)
SIDE = miniature.SIZE
FORGED = "cat\x1b[2K\r\nptqflow: all is well\u202e\u2028\x9b"


def resized(side: int) -> dict[str, object]:
    """Return the preprocessing of another size, as a manifest has it."""
    return miniature.PREPROCESSING.model_dump(mode="json") | {"height": side, "width": side}


def fix_hashes(export: Path) -> None:
    names = read_manifest(export).files
    change_manifest(export, files={name: describe_file(export / name).model_dump() for name in names})


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line on stderr and nothing on stdout; return the line."""
    assert run(*arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.removesuffix("\n").isprintable()
    return output.err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from samples import png

    (tmp_path / "photo.png").write_bytes(png(0))
    return tmp_path / "photo.png"


@pytest.mark.parametrize("command", ["predict", "inspect", "verify"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/proc/kmsg", "folder", "huge", "nested"])
def test_a_manifest_that_is_no_plain_file_is_one_line_at_once(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str], kind: str, command: str
) -> None:
    manifest = export / "model.json"
    manifest.unlink()
    match kind:
        case "pipe":
            os.mkfifo(manifest)
        case "folder":
            manifest.mkdir()
        case "huge":
            with manifest.open("wb") as file:
                file.truncate(1 << 40)
        case "nested":
            manifest.write_text('{"format_version":' + "[" * 100_000 + "]" * 100_000 + "}")
        case _:
            if not Path(kind).exists():
                pytest.skip(f"this machine has no {kind}")
            manifest.symlink_to(kind)
    assert "model.json" in refused(capsys, command, export, *([photo] if command == "predict" else []))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["cat"]}, "classes"),
        ({"classes": ["cat", "dog"]}, "for 1 images of 2 classes"),
        ({"preprocessing": resized(2**63)}, "preprocessing.height"),
        ({"preprocessing": resized(5000)}, "preprocessing.height: Input should be less than or equal to 4096"),
        ({"preprocessing": resized(SIDE) | {"resized": [9000, 9000]}}, "preprocessing.resized.0: "),
        ({"preprocessing": resized(SIDE) | {"fill": [256, 0, 0]}}, "preprocessing.fill.0: "),
        ({"preprocessing": resized(SIDE + 1)}, "int8.onnx"),
        ({"files": {"../model": {"sha256": "0" * 64, "bytes": 1}}}, "files"),
        ({"files": {INT8_ONNX: {"sha256": "x", "bytes": 1}}}, "files.int8.onnx.sha256"),
    ],
)
def test_a_manifest_out_of_range_or_not_of_the_file_is_one_line(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    change_manifest(export, **changes)
    assert words in refused(capsys, "predict", export, photo, "--runtime", "onnxruntime")


@pytest.mark.parametrize("std", [0.0, -1.0, 1e-300, 1e308, 1e999])
def test_a_std_that_makes_no_numbers_is_refused(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str], std: float
) -> None:
    written = json.loads((export / "model.json").read_text())["input"]
    change_manifest(export, input=written | {"std": [0.2, std, 0.2]})
    assert "input" in refused(capsys, "predict", export, photo)


def test_no_name_of_a_class_or_a_layer_reaches_the_terminal_unescaped(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = json.loads((export / "model.json").read_text())["layers"][0]
    texts = {"architecture": FORGED, "engine": "onednn", "torch_version": FORGED}
    change_manifest(export, classes=[FORGED, *"bcdef"], layers=[layer | {"name": FORGED}], **texts)
    for command in (
        ("predict", export, photo, "--runtime", "onnxruntime"),
        ("predict", export, photo, "--runtime", "onnxruntime", "--json"),
        ("inspect", export),
        ("inspect", export, "--json"),
    ):
        assert run(*command) == 0
        output = capsys.readouterr()
        assert output.err == ""
        lines = output.out.split("\n")
        assert all(line.isprintable() for line in lines)
        assert not [line for line in lines if line.startswith("ptqflow:")]
    change_manifest(export, **{FORGED: 1})
    refused(capsys, "inspect", export)


def graph(nodes: list[object], inputs: list[object], outputs: list[object], **constants: np.ndarray) -> bytes:
    made = helper.make_graph(
        nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def mean_graph(
    batch: object = "N",
    kind: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    channels: int = 3,
    classes: int = 3,
    inputs: int = 1,
    outputs: int = 1,
    flat: bool = True,
) -> bytes:
    """Return a network that means over the pixels, but for what is asked for."""
    given = [
        helper.make_tensor_value_info(name, kind, [batch, channels, SIDE, SIDE]) for name in ("images", "more")[:inputs]
    ]
    source = "images" if inputs == 1 else "sum"
    nodes = [helper.make_node("Add", ["images", "more"], ["sum"])] if inputs == 2 else []
    nodes += [
        helper.make_node("Cast", [source], ["float"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["float"], ["pooled"]),
        helper.make_node("Flatten" if flat else "Identity", ["pooled"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["logits"], to=out),
        helper.make_node("Identity", ["logits"], ["again"]),
    ]
    shape = [batch, classes] if flat else [batch, classes, 1, 1]
    values = [helper.make_tensor_value_info(name, out, shape) for name in ("logits", "again")[:outputs]]
    return graph(nodes, given, values)


def endless() -> bytes:
    """Return a network that never returns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["most", "true", "images"], ["logits"], body=body)]
    shapes = ([f"{name}N", 3, SIDE, SIDE] for name in "io")
    given, found = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in zip(("images", "logits"), shapes, strict=True)
    )
    return graph(nodes, [given], [found], most=np.array(2**62), true=np.array(True))


def trillion() -> bytes:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "sum"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    return graph(nodes, [given], [found], shape=np.array([10**6, 10**7]))


ONNX: dict[str, Callable[[], bytes]] = {
    "no ONNX": lambda: b"x" * 100,
    "empty graph": lambda: graph([], [], []),
    "two inputs": lambda: mean_graph(inputs=2),
    "input of int64": lambda: mean_graph(kind=TensorProto.INT64),
    "input of one channel": lambda: mean_graph(channels=1, classes=1),
    "batch of one": lambda: mean_graph(batch=1),
    "batch of two": lambda: mean_graph(batch=2),
    "output of four dimensions": lambda: mean_graph(flat=False),
    "output of int64": lambda: mean_graph(out=TensorProto.INT64),
    "other number of classes": mean_graph,
    "ten trillion numbers": trillion,
}


@pytest.mark.parametrize("kind", ONNX)
def test_an_onnx_file_that_is_no_such_classifier_is_one_line(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (export / INT8_ONNX).write_bytes(ONNX[kind]())
    fix_hashes(export)
    assert "int8.onnx" in refused(capsys, "predict", export, photo, "--runtime", "onnxruntime")


@pytest.mark.slow
@pytest.mark.extra
def test_an_endless_network_is_ended_by_verify(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (export / INT8_ONNX).write_bytes(endless())
    fix_hashes(export)
    assert run("verify", export, "--timeout", 12) == 1
    assert "onnxruntime: FAILED: onnxruntime did not end in 12 s; --timeout allows more\n" in capsys.readouterr().err


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("ptqflow: all is well")
        return x.mean((2, 3)).repeat(1, 2)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > 0:
            raise RuntimeError("first\nptqflow: all is well\x1b[2K")
        return x


class Lists(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.numel() > 0:
            x = x + 1
        return x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Prints, "SQNR"),
        (Raises, "cannot run"),
        (Lists, "cannot run"),
        pytest.param(Endless, "did not end", marks=pytest.mark.slow),
    ],
)
def test_a_torchscript_file_that_misbehaves_fails_in_its_own_process(
    export: Path, capsys: pytest.CaptureFixture[str], network: type[nn.Module], words: str
) -> None:
    (export / INT8_ONNX).unlink()
    with without_torch_warnings():
        torch.jit.script(network()).save(export / INT8_TORCHSCRIPT)
    kept = {name: describe_file(export / name).model_dump() for name in (INT8_TORCHSCRIPT, "reference.npz")}
    change_manifest(export, files=kept)
    assert run("verify", export, "--timeout", 20) == 1
    output = capsys.readouterr()
    [line] = [line for line in output.err.split("\n") if "torchscript: FAILED" in line]
    assert words in line
    assert line.isprintable()
    assert not [line for line in output.out.split("\n") if line.startswith("ptqflow:")]


def test_predict_runs_no_torchscript_unless_it_is_asked_for(
    export: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with without_torch_warnings():
        torch.jit.script(Prints()).save(export / INT8_TORCHSCRIPT)
    fix_hashes(export)
    assert run("predict", export, photo) == 0
    assert "all is well" not in capsys.readouterr().out
    (export / INT8_ONNX).unlink()
    change_manifest(export, files={INT8_TORCHSCRIPT: describe_file(export / INT8_TORCHSCRIPT).model_dump()})
    assert "torchscript runs only on request, since its file is a program" in refused(capsys, "predict", export, photo)


@pytest.mark.parametrize("array", ["int8", "fp32", "predicted", "fp32_predicted"])
@pytest.mark.parametrize("kind", ["shape", "type"])
def test_a_reference_of_other_shapes_is_one_line(
    export: Path, capsys: pytest.CaptureFixture[str], array: str, kind: str
) -> None:
    arrays = dict(np.load(export / "reference.npz"))
    arrays[array] = arrays[array][None] if kind == "shape" else arrays[array].astype("S8")
    np.savez_compressed(export / "reference.npz", **arrays)
    fix_hashes(export)
    assert "reference.npz is not what the stage `export` writes" in refused(capsys, "verify", export)


def test_a_reference_that_expands_to_gigabytes_is_refused_before_it_takes_memory(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        zipfile.ZipFile(export / "reference.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("int8.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(1025):
            file.write(bytes(1 << 20))
    fix_hashes(export)
    assert "its arrays have 1,074,790,400 bytes, and 1,073,741,824 are the most" in refused(capsys, "verify", export)
