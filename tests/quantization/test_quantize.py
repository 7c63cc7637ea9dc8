"""`ptqflow.quantize` on networks, images and settings of every kind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import miniature  # before torchvision, which it lets be imported beside any torch
import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from samples import encode, write_folder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ptqflow
from ptqflow.core.errors import DataError, ModelError, ParamsError, PtqflowWarning
from ptqflow.quantization.result import Quantization

MEAN, STD = [0.5, 0.4, 0.6], [0.25, 0.2, 0.3]
SETTINGS: dict[str, Any] = {"model.mean": MEAN, "model.std": STD, "calib.batch_size": 8, "calib.batches": 4}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(6).train()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """80 different images."""
    return np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def quantized(network: nn.Module, pixels: np.ndarray) -> Quantization:
    return ptqflow.quantize(network, pixels, settings=SETTINGS)


def normalized(pixels: np.ndarray) -> torch.Tensor:
    """As torchvision's ToTensor and Normalize."""
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (MEAN, STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def test_half_of_the_images_are_compared_with_fp32_and_the_network_stays_unchanged(
    network: nn.Module, pixels: np.ndarray, quantized: Quantization
) -> None:
    assert network.training
    assert quantized.figures.images == 40
    compared = quantized.steps.dataset.test.read()
    assert {image.tobytes() for image in compared} < {image.tobytes() for image in pixels}
    with torch.no_grad():
        exact = network.eval()(normalized(compared)).numpy()
    network.train()
    np.testing.assert_allclose(quantized.logits["fp32"], exact, atol=1e-5)
    same = (quantized.logits["int8"].argmax(axis=1) == exact.argmax(axis=1)).mean()
    assert quantized.figures.agreement == pytest.approx(same, abs=1e-6)
    assert quantized.sqnr_db is not None
    assert quantized.sqnr_db > 20
    assert f"{quantized.figures.images} images" in quantized.verdict


def test_what_is_saved_is_what_was_checked_and_runs_without_torch(quantized: Quantization, tmp_path: Path) -> None:
    quantized.save(tmp_path / "models" / "export")
    compared = quantized.steps.dataset.test.read()
    classifier = ptqflow.load(tmp_path / "models" / "export", "onnxruntime")
    fp32 = quantized.logits["fp32"].argmax(axis=1)
    assert (classifier(compared).argmax(axis=1) == fp32).mean() == pytest.approx(quantized.agreement, abs=1e-6)
    assert classifier.classes == tuple("012345")
    quantized.save(tmp_path / "models" / "export")
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == ["export"]


def test_the_report_has_the_agreement_the_layers_and_no_accuracy(quantized: Quantization, tmp_path: Path) -> None:
    page = quantized.report(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page
    assert "INT8 predicts what FP32 predicts for" in page
    assert "Sensitivity of each module" in page
    assert "top-1" not in page


def kinds(pixels: np.ndarray, folder: Path) -> dict[str, Any]:
    """Return the same images in every form that a caller may have them in."""
    tensors, labels = normalized(pixels), torch.zeros(len(pixels))
    files = {f"{i:03}.png": encode(Image.fromarray(image)) for i, image in enumerate(pixels)}
    return {
        "array": pixels,
        "PIL images": [Image.fromarray(image) for image in pixels],
        "arrays": list(pixels),
        "loader of uint8": DataLoader(TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2)), 16),  # type: ignore[arg-type]
        "loader of normalized floats with labels": DataLoader(TensorDataset(tensors, labels), 16),
        "loader of dicts": [{"pixel_values": batch} for batch in tensors.split(16)].__iter__(),
        "folder": write_folder(folder, files),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["PIL images", "arrays", "loader of uint8", "loader of normalized floats with labels", "folder"],
)
def test_the_same_images_of_any_kind_make_the_same_files(
    network: nn.Module, pixels: np.ndarray, quantized: Quantization, tmp_path: Path, kind: str
) -> None:
    given = kinds(pixels, tmp_path / "photos")[kind]
    settings = SETTINGS | ({"data.image_size": 8} if kind == "folder" else {})
    found = ptqflow.quantize(network, given, settings=settings)
    assert found.manifest.dataset_sha256 == quantized.manifest.dataset_sha256
    assert {name: file.sha256 for name, file in found.manifest.files.items()} == {
        name: file.sha256 for name, file in quantized.manifest.files.items()
    }


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (np.zeros((3, 8, 8, 3), np.uint8), {}, "there are 3 images, and 4 are the fewest"),
        (np.zeros((9, 8, 8, 3), np.float32), {}, r"the array is float32 of shape \(9, 8, 8, 3\): pass uint8"),
        (3, {}, "images is a int: pass a folder"),
        ([torch.zeros(4, 8, 8)], {}, "the loader yields a tensor of shape|image 0 is float32"),
        (DataLoader(TensorDataset(torch.rand(9, 3, 8, 8)), 3), {}, "which are no 8-bit pixels after mean"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)] * 4,
            {},
            "the images have several sizes, or are files; set",
        ),
    ],
    ids=["too few", "floats", "a number", "no batch", "another normalization", "several sizes"],
)
def test_images_that_cannot_be_taken_are_one_line(
    network: nn.Module, images: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as error:
        ptqflow.quantize(network, images, settings=SETTINGS | settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"convert.hed": "int8"}, "settings: unknown key convert.hed; did you mean head?"),
        ({"train.epochs": 1}, "settings has the key 'train.epochs': pass keys of data, model"),
        ({"convert.head": "int4"}, "settings: convert.head is 'int4'"),
        ({"convert.max_drop": 1}, "convert.max_drop is set, and the images have no labels"),
        ({"model.mean": [0.5]}, "settings: model.mean has 1 values and model.std 3"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    network: nn.Module, pixels: np.ndarray, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParamsError) as error:
        ptqflow.quantize(network, pixels, settings=SETTINGS | settings)
    assert words in str(error.value)


def test_pixels_without_a_normalization_are_warned_of(network: nn.Module, pixels: np.ndarray) -> None:
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("model")}
    with pytest.warns(PtqflowWarning, match=r"model\.mean and model\.std are not set: pixels are scaled to 0\.\.1"):
        ptqflow.quantize(network, pixels, settings=settings)


def test_networks_that_are_no_classifiers_are_one_line(pixels: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"Conv2d returns \(2, 4, 6, 6\) for two images, not one score"):
        ptqflow.quantize(nn.Conv2d(3, 4, 3), pixels, settings=SETTINGS)
    with pytest.raises(ModelError, match="pass weights: a file, or the name of published weights"):
        ptqflow.quantize("resnet18", pixels, settings=SETTINGS)


def test_the_command_quantizes_photos_saves_the_model_and_prints_the_verdict(
    network: nn.Module, pixels: np.ndarray, quantized: Quantization, tmp_path: Path
) -> None:
    write_folder(tmp_path / "photos", {f"{i:03}.png": encode(Image.fromarray(p)) for i, p in enumerate(pixels)})
    torch.save(network.state_dict(), tmp_path / "w.pt")
    (tmp_path / "nets.py").write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\nimport miniature\n\n\n"
        "def build(num_classes):\n    return miniature.residual(num_classes)\n"
    )
    settings = [f"-S{key}={json.dumps(value)}" for key, value in (SETTINGS | {"data.image_size": 8}).items()]
    command = ["quantize", "--model", "nets:build", "--weights", "w.pt", "photos", "-o", "out", "--report", "r.html"]
    done = subprocess.run(
        [sys.executable, "-m", "ptqflow", *command, *settings],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(quantized.verdict.split(";")[0])
    assert "<html" in (tmp_path / "r.html").read_text()
    assert ptqflow.load(tmp_path / "out", "onnxruntime")(pixels[:2]).shape == (2, 6)
