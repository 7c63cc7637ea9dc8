from pathlib import Path

import miniature
import pytest
from evaluation import evaluation_figures
from exporting import PARAMS, WEIGHTS_SHA256, Exported
from repository import stages_of
from ruamel.yaml import YAML

import ptqflow
from ptqflow.core.code import hash_packages
from ptqflow.export.manifest import PACKAGES
from ptqflow.models.architecture import hash_code
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, REFERENCE, read_manifest


def test_the_manifest_describes_files_data_code_and_layers(exported: Exported) -> None:
    manifest = read_manifest(exported.directory)
    assert manifest.classes == miniature.CLASSES
    assert manifest.metrics == evaluation_figures(int8=0.5)
    assert set(manifest.files) == {INT8_ONNX, FP32_ONNX, INT8_TORCHSCRIPT, REFERENCE}
    assert manifest.dataset_sha256 == exported.dataset.card.sha256
    assert manifest.calibration.images == 40
    assert manifest.margin == PARAMS.margin
    assert manifest.code_sha256 == hash_packages(PACKAGES)
    assert manifest.model_code_sha256 == hash_code("miniature:residual")
    assert "path" not in manifest.params["data"]
    layers = {layer.name: layer for layer in manifest.layers}
    module = exported.networks.int8.module
    assert layers["conv2"].scale == pytest.approx(float(module.conv2.scale))
    assert (layers["fc"].precision, layers["fc"].scale) == ("fp32", None)
    assert manifest.weights_sha256 == WEIGHTS_SHA256
    assert manifest.ptqflow_version == ptqflow.__version__


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


def test_the_hash_of_the_code_is_that_of_the_packages_on_which_the_stage_depends() -> None:
    deps = stages_of("dvc.yaml")["export"]["deps"]
    assert [f"src/ptqflow/{package}" for package in PACKAGES] == [dep for dep in deps if dep.startswith("src/")]
