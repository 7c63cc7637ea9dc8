from pathlib import Path

import numpy as np
import pytest
from inference.exported import change_manifest, manifest, replace_torchscript

from ptqflow.errors import ArtifactError, EngineError
from ptqflow.inference.verification import Check, generate_images, sqnr_db, verify
from ptqflow.manifest import read_manifest


def checks(export: Path) -> dict[str, Check]:
    return {check.runtime: check for check in verify(export, read_manifest(export)) if isinstance(check, Check)}


def test_every_runtime_of_this_machine_is_nearer_to_the_graph_than_int8_is_to_fp32(whole: Path) -> None:
    found = checks(whole)

    assert {"onnxruntime", "torchscript"} <= found.keys()
    for check in found.values():
        assert check.passed
        assert check.agreement == 1
        assert check.sqnr_db > check.least_db + 6


def test_kernels_that_compute_something_else_fail(export: Path) -> None:
    replace_torchscript(export)

    found = checks(export)
    assert not found["torchscript"].passed
    assert "FAILED" in found["torchscript"].as_text()
    assert found["onnxruntime"].passed


def test_where_quantization_cost_nothing_the_kernels_may_still_round(export: Path) -> None:
    (export / "int8.onnx").write_bytes((export / "fp32.onnx").read_bytes())
    change_manifest(export, files=manifest(export, ["fp32.onnx", "int8.onnx"]).model_dump()["files"])

    assert checks(export)["onnxruntime"].passed


def test_a_changed_file_is_refused_also_where_no_runtime_takes_it(export: Path) -> None:
    (export / "fp32.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"fp32\.onnx is missing"):
        checks(export)


def test_a_model_without_onnx_files_has_nothing_to_be_compared_with(export: Path) -> None:
    change_manifest(export, files={})
    with pytest.raises(EngineError, match=r"no fp32\.onnx and no int8\.onnx"):
        checks(export)


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
