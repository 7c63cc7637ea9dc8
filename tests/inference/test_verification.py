from pathlib import Path

import numpy as np
import pytest
from exported import TEST, change_manifest, manifest, replace_torchscript
from samples import save_dataset

from ptqflow.core.errors import ArtifactError
from ptqflow.inference.verification import Finding, compare_logits, compare_predictions, sqnr_db, verify
from ptqflow.runtime.manifest import REFERENCE, read_manifest
from ptqflow.runtime.reference import Reference, read_reference


def findings(export: Path, dataset: Path | None = None) -> dict[str, Finding]:
    return {found.runtime: found for found in verify(export, read_manifest(export), dataset, 120)}


@pytest.fixture
def dataset(export: Path, tmp_path: Path) -> Path:
    """The test images with which the model was exported, all of which INT8 in torch classifies correctly."""
    directory = tmp_path / "dataset"
    test = TEST, read_reference(export, read_manifest(export)).predicted
    card = save_dataset(directory, dict.fromkeys(("train", "val", "test"), test))
    change_manifest(export, dataset_sha256=dict(card.sha256))
    return directory


def test_every_runtime_of_this_machine_is_as_near_to_fp32_as_torch_at_export(pristine: Path) -> None:
    found = findings(pristine)
    assert list(found) == ["openvino", "onnxruntime", "torchscript"]
    for finding in found.values():
        assert finding.passed is not False, finding
        assert finding.passed is None or "100.00% of 64 generated images, SQNR to FP32" in finding.text


@pytest.mark.parametrize("with_data", [False, True])
def test_a_broken_torchscript_file_fails_and_the_onnx_file_passes(export: Path, dataset: Path, with_data: bool) -> None:
    replace_torchscript(export)
    found = findings(export, dataset if with_data else None)
    assert found["torchscript"].passed is False
    assert found["onnxruntime"].passed is True


@pytest.mark.parametrize("with_data", [False, True])
def test_another_network_as_onnx_file_fails_and_the_torchscript_file_passes(
    export: Path, dataset: Path, tmp_path: Path, with_data: bool
) -> None:
    swap_classes(export / "int8.onnx")
    files = manifest(export, list(read_manifest(export).files)).model_dump(mode="json")["files"]
    change_manifest(export, files=files)
    found = findings(export, dataset if with_data else None)
    assert found["onnxruntime"].passed is False
    assert found["torchscript"].passed is True


def swap_classes(file: Path) -> None:
    """Reverse the order of the logits in an ONNX file."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file)
    [output] = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    last.output[0] = "unordered"
    model.graph.initializer.append(numpy_helper.from_array(np.arange(5, -1, -1), "order"))
    model.graph.node.append(helper.make_node("Gather", ["unordered", "order"], [output.name], axis=1))
    onnx.save(model, file)


def test_a_runtime_that_fails_to_load_fails_alone(pristine: Path, broken_openvino: str) -> None:
    found = findings(pristine)
    assert found["openvino"].passed is False
    assert broken_openvino in found["openvino"].text
    assert found["onnxruntime"].passed
    assert found["torchscript"].passed


def test_logits_may_be_3_db_further_from_fp32_than_those_of_torch() -> None:
    fp32 = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    noise, other = (np.random.default_rng(seed).normal(size=(64, 6)).astype(np.float32) for seed in (1, 2))
    none = np.zeros(1, np.int64)
    quantized = Reference(int8=fp32 + 0.1 * noise, fp32=fp32, predicted=none, fp32_predicted=none)  # 20 dB
    assert compare_logits("onnxruntime", fp32 + 0.1 * other, quantized).passed, "as far from FP32 elsewhere"
    assert compare_logits("onnxruntime", fp32 + 0.12 * other, quantized).passed
    assert not compare_logits("onnxruntime", fp32 + 0.16 * other, quantized).passed
    exact = Reference(int8=fp32, fp32=fp32, predicted=none, fp32_predicted=none)
    assert compare_logits("onnxruntime", fp32 + 0.001 * noise, exact).passed
    assert not compare_logits("onnxruntime", fp32 + 0.002 * noise, exact).passed


def test_predictions_may_be_as_much_worse_as_the_manifest_says() -> None:
    fp32 = np.arange(1000) % 6
    logits = np.zeros((1, 6), np.float32)
    reference = Reference(int8=logits, fp32=logits, predicted=fp32, fp32_predicted=fp32)
    predicted = fp32.copy()
    predicted[:20] = (fp32[:20] + 2) % 6
    found = np.eye(6, dtype=np.float32)[predicted]
    labels = (fp32 + 1) % 6
    assert compare_predictions("onnxruntime", found, reference, labels, 0.02).passed is True
    failed = compare_predictions("onnxruntime", found, reference, labels, 0.019)
    assert failed.passed is False
    assert "of 1000 test images 20 are no longer predicted as FP32 does and 0 gained" in failed.text


def test_with_the_data_set_the_test_images_are_classified(export: Path, dataset: Path) -> None:
    found = findings(export, dataset)
    text = (
        "predicts what torch's INT8 network did for 100.00% of 50 test images, and what FP32 did for 100.00%, "
        "top-1 100.00%"
    )
    assert found["torchscript"].text == text
    assert found["onnxruntime"].passed


def test_another_data_set_than_that_of_the_manifest_is_refused(export: Path, dataset: Path) -> None:
    change_manifest(export, dataset_sha256={"test": "0" * 64})
    with pytest.raises(ArtifactError, match="its test images are not those with which"):
        findings(export, dataset)


def test_a_changed_file_is_refused_also_if_no_runtime_reads_it(export: Path) -> None:
    (export / "fp32.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"fp32\.onnx is missing"):
        findings(export)


def test_a_model_without_a_reference_is_refused(export: Path) -> None:
    files = read_manifest(export).model_dump(mode="json")["files"]
    del files[REFERENCE]
    change_manifest(export, files=files)
    with pytest.raises(ArtifactError, match=r"has no reference\.npz"):
        findings(export)


def test_a_model_without_onnx_files_is_verified_in_torch(export: Path) -> None:
    change_manifest(export, files=manifest(export, ["int8.torchscript.pt", REFERENCE]).model_dump(mode="json")["files"])
    found = findings(export)
    assert found["torchscript"].passed
    assert found["onnxruntime"].passed is None


def test_sqnr_is_ten_times_the_logarithm_of_signal_over_noise_power() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    assert sqnr_db(reference + np.array([[0.0, 0.5], [0.5, 0.0]]), reference) == 20
    assert sqnr_db(reference, reference) == float("inf")
