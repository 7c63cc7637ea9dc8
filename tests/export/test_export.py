import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from exporting import PARAMS, ROOT, Exported
from made_logits import logits_card
from torch import Tensor

import ptqflow
from ptqflow.core.errors import ArtifactError, ModelError
from ptqflow.core.figures import FileCheck
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.data.logits import Logits
from ptqflow.data.preprocessing import to_input
from ptqflow.export.export import pair_logits, require_runtimes, summarize, write_files
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.inference.classifier import softmax
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, REFERENCE, read_manifest
from ptqflow.runtime.reference import IMAGES, generate_images, read_reference
from ptqflow.runtime.runtimes import onnxruntime_session


def run_onnx(model: Path | bytes, images: Tensor) -> Tensor:
    session = onnxruntime_session(model, intra_op_num_threads=1)
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_every_file_passes_the_gate(exported: Exported) -> None:
    checks = exported.check()
    script, int8, fp32 = checks
    top1 = float((exported.logits.int8.argmax(axis=1) == exported.dataset.test.labels).mean())
    agrees = float((exported.logits.int8.argmax(axis=1) == exported.logits.fp32.argmax(axis=1)).mean())
    assert script == FileCheck(
        file=INT8_TORCHSCRIPT,
        runtime="torchscript",
        images=50,
        bit_exact=True,
        agreement=1.0,
        fp32_agreement=agrees,
        median_sqnr_db=round(median_sqnr_db(exported.logits.int8, exported.logits.fp32), 4),
        top1=top1,
        lost=0,
        gained=0,
    )
    assert (int8.file, int8.runtime) == (INT8_ONNX, "onnxruntime")
    assert int8.agreement >= 0.98  # one of 50 images may differ
    assert int8.lost + int8.gained <= 1
    assert int8.top1 == pytest.approx(top1 + (int8.gained - int8.lost) / 50)
    assert (fp32.file, fp32.runtime, fp32.agreement) == (FP32_ONNX, "onnxruntime", 1)
    assert summarize(checks) == (
        f"int8.torchscript.pt, int8.onnx, fp32.onnx pass; top-1 of int8.onnx {100 * int8.top1:.2f} % in onnxruntime"
    )


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


def test_without_onnx_only_torchscript_is_written_and_checked(exported: Exported, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"onnx": False})
    alone = replace(exported, directory=tmp_path / "alone")
    alone.directory.mkdir()
    write_files(alone.directory, alone.networks, alone.logits, params)
    assert {file.name for file in alone.directory.iterdir()} == {INT8_TORCHSCRIPT, REFERENCE}
    alone.describe()
    checks = alone.check(params)
    assert [(check.file, check.bit_exact) for check in checks] == [(INT8_TORCHSCRIPT, True)]
    assert summarize(checks) == "int8.torchscript.pt passes"


def test_the_reference_holds_the_outputs_of_torch(exported: Exported) -> None:
    reference = read_reference(exported.directory, read_manifest(exported.directory))
    images = to_input(torch.from_numpy(generate_images(IMAGES, miniature.INPUT_SHAPE)), miniature.NORMALIZATION)
    with torch.inference_mode():
        assert np.array_equal(reference.int8, exported.networks.int8.module(images).numpy())
        np.testing.assert_allclose(reference.fp32, exported.networks.fp32(images).numpy(), rtol=1e-5, atol=1e-5)
    assert np.array_equal(reference.predicted, exported.logits.int8.argmax(axis=1))


def test_openvino_is_checked_on_request_and_predict_runs_what_the_gate_ran(exported: Exported) -> None:
    check = exported.check(PARAMS.model_copy(update={"openvino": True}))[-1]
    assert (check.file, check.runtime) == (INT8_ONNX, "openvino")
    assert check.agreement >= 0.98
    logits = exported.gate.replay("openvino", INT8_ONNX, 50)
    probabilities = ptqflow.load(exported.directory, "openvino")(np.asarray(exported.dataset.test.images))
    assert np.array_equal(softmax(logits), probabilities)


def test_openvino_on_request_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptqflow.export.export.find_spec", lambda _: None)
    require_runtimes(PARAMS)
    with pytest.raises(ModelError, match=r"^export\.openvino is true, and openvino is not installed"):
        require_runtimes(PARAMS.model_copy(update={"openvino": True}))


@pytest.mark.parametrize(
    ("network", "changes", "problem"),
    [
        ("fp32", {"test_sha256": "9" * 64}, "data/logits/fp32 holds logits for other test images"),
        ("int8", {"test_sha256": "9" * 64}, "data/logits/int8 holds logits for other test images"),
        ("int8", {"fp32_sha256": "9" * 64}, "data/logits/int8 holds logits of a network with other FP32 weights"),
        ("int8", {"model_sha256": "9" * 64}, "data/logits/int8 holds logits of another network"),
        ("fp32", {"model_sha256": "9" * 64}, "data/logits/fp32 holds logits of another network"),
    ],
)
def test_logits_of_other_networks_or_images_are_refused(
    exported: Exported, network: str, changes: dict[str, str], problem: str
) -> None:
    card, dataset = exported.networks.int8.card, exported.dataset.card
    own = {"fp32": card.model.weights_sha256, "int8": card.state_sha256}
    logits = {
        name: Logits(
            values,
            logits_card(
                name,
                **{
                    "test_sha256": dataset.sha256["test"],
                    "fp32_sha256": own["fp32"],
                    "model_sha256": own[name],
                    **(changes if name == network else {}),
                },
            ),
        )
        for name, values in vars(exported.logits).items()
    }
    with pytest.raises(ArtifactError, match=f"^{problem}; run `dvc repro`$"):
        pair_logits(exported.networks, logits["int8"], logits["fp32"], dataset)


@pytest.mark.slow
def test_two_processes_write_equal_bytes(tmp_path: Path) -> None:
    program = f"""
import sys; sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
import hashlib, miniature, numpy as np, torch, pathlib
from exporting import PARAMS, make_networks
from ptqflow.export.export import LogitsPair, write_files
torch.manual_seed(0)
networks = make_networks(miniature.residual(6).eval(), miniature.card(), [torch.rand(8, 3, 8, 8)])
write_files(pathlib.Path(sys.argv[1]), networks, LogitsPair(np.zeros((1, 6)), np.zeros((1, 6))), PARAMS)
"""
    contents = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / folder)]
        subprocess.run(command, check=True, capture_output=True)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {INT8_ONNX, FP32_ONNX, INT8_TORCHSCRIPT, REFERENCE}
