import os
from pathlib import Path

import miniature
import numpy as np
import pytest
from exported import change_manifest, manifest, replace_torchscript
from samples import pool, source

import ptqflow
from ptqflow.core.errors import ArtifactError, EngineError
from ptqflow.fetch.writing import save_dataset
from ptqflow.inference.verification import (
    Finding,
    compare_on_generated_images,
    generate_images,
    sqnr_db,
    verify,
)
from ptqflow.runtime.manifest import read_manifest

TEST = miniature.images(50, seed=9)


def findings(export: Path, dataset: Path | None = None) -> dict[str, Finding]:
    return {found.runtime: found for found in verify(export, read_manifest(export), dataset, 0.9)}


@pytest.fixture
def dataset(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Test images that the model was exported with, as its manifest says; the gate runs files in other processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(ptqflow.__file__).parents[1]), prepend=os.pathsep)
    directory = tmp_path / "dataset"
    directory.mkdir()
    test = pool(TEST, ptqflow.load(export, "torchscript")(TEST).argmax(axis=1))
    card = save_dataset(directory, "noise", source(test, test), dict.fromkeys(("train", "val", "test"), test))
    change_manifest(export, dataset_sha256=dict(card.sha256), metrics={"int8": {"top1": 1.0}})
    return directory


def test_every_runtime_of_this_machine_is_nearer_to_the_graph_than_int8_is_to_fp32(pristine: Path) -> None:
    found = findings(pristine)

    assert list(found) == ["openvino", "onnxruntime", "torchscript"]
    for runtime in ("onnxruntime", "torchscript"):
        assert found[runtime].passed
        assert "100.00% of 64 generated images" in found[runtime].text


def test_float_arithmetic_is_not_what_the_kernels_do_but_near(pristine: Path) -> None:
    compare = compare_on_generated_images(pristine, read_manifest(pristine))

    decibels = float(compare("torchscript").text.partition("SQNR ")[2].partition(" ")[0])
    assert 45 < decibels < 100


def test_kernels_that_compute_something_else_fail(export: Path) -> None:
    replace_torchscript(export)

    found = findings(export)
    assert found["torchscript"].passed is False
    assert found["onnxruntime"].passed is True


def test_a_runtime_that_fails_to_load_fails_alone(pristine: Path, broken_openvino: str) -> None:
    found = findings(pristine)
    assert found["openvino"].passed is False
    assert broken_openvino in found["openvino"].text
    assert found["onnxruntime"].passed
    assert found["torchscript"].passed


def test_where_quantization_cost_nothing_the_kernels_may_still_round(export: Path) -> None:
    (export / "int8.onnx").write_bytes((export / "fp32.onnx").read_bytes())
    change_manifest(export, files=manifest(export, ["fp32.onnx", "int8.onnx"]).model_dump()["files"])

    assert findings(export)["onnxruntime"].passed


def test_with_the_data_set_the_gate_of_the_export_is_run_again(export: Path, dataset: Path) -> None:
    found = findings(export, dataset)

    assert found["onnxruntime"].passed
    assert found["onnxruntime"].text.startswith("predicts what torch does for ")
    assert found["torchscript"].text == "top-1 100.00% on 50 test images, 100.00% where it was exported"


def test_the_gate_fails_a_runtime_that_predicts_something_else(export: Path, dataset: Path) -> None:
    hashes = read_manifest(export).dataset_sha256
    replace_torchscript(export)
    change_manifest(export, dataset_sha256=hashes)

    found = findings(export, dataset)
    assert found["onnxruntime"].passed is False
    assert "asked: 90.00%" in found["onnxruntime"].text


def test_another_data_set_than_that_of_the_manifest_is_refused(export: Path, dataset: Path) -> None:
    change_manifest(export, dataset_sha256={"test": "0" * 64})
    with pytest.raises(ArtifactError, match="its test images are not those that"):
        findings(export, dataset)


def test_a_changed_file_is_refused_also_where_no_runtime_takes_it(export: Path) -> None:
    (export / "fp32.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"fp32\.onnx is missing"):
        findings(export)


def test_a_model_without_onnx_files_has_nothing_to_be_compared_with(export: Path) -> None:
    change_manifest(export, files={})
    with pytest.raises(EngineError, match=r"no fp32\.onnx and no int8\.onnx"):
        findings(export)


@pytest.mark.parametrize("size", [8, 32, 33])
def test_generated_images_are_the_same_each_time_and_all_different(size: int) -> None:
    images = generate_images(20, size)
    assert (images.shape, images.dtype) == ((20, size, size, 3), np.uint8)
    assert np.array_equal(images, generate_images(20, size))
    assert len({image.tobytes() for image in images}) == 20


def test_sqnr_is_ten_times_the_logarithm_of_signal_over_noise_power() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    assert sqnr_db(reference + np.array([[0.0, 0.5], [0.5, 0.0]]), reference) == 20
    assert sqnr_db(reference, reference) == float("inf")
