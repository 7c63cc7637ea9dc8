"""Networks of the user's own for grey and RGBA images, with real dvc."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline.test_faults import assert_one_clear_line
from repository import TINY_MODEL, Repository
from samples import encode, random_pixels, write_folder

import ptqflow
from ptqflow.runtime.manifest import INT8_ONNX
from ptqflow.runtime.runtimes import onnxruntime_session

OPAQUE, CLEAR = ("L", "RGB", "P", "I;16"), ("LA", "RGBA")
"""Modes of the files of each class: seen on white, what is clear is light, so grey images differ too."""
PARAMS = {
    "train": {"epochs": 10, "batch_size": 16, "lr": 0.1, "cutout": 4},
    "benchmark": {"batch_sizes": [1], "rounds": 3, "seconds": 0.01},
}


def picture(mode: str, seed: int) -> bytes:
    """Return a PNG of noise; what has alpha is nearly transparent."""
    if mode == "I;16":
        return encode(Image.fromarray(random_pixels(20, 20, seed=seed).astype(np.uint16) * 257))
    image = Image.fromarray(random_pixels(20, 20, 3, seed=seed)).convert(mode)
    if mode in CLEAR:
        image.putalpha(32)
    return encode(image)


def write_photos(folder: Path) -> list[Path]:
    """Write images in every mode, and return those of test in their stored order."""
    files = {
        f"{split}/{name}/{i:03}.png": picture(modes[i % len(modes)], seed + i)
        for split, count, seed in (("train", 80, 0), ("test", 40, 1000))
        for name, modes in (("clear", CLEAR), ("opaque", OPAQUE))
        for i in range(count)
    }
    write_folder(folder, files)
    return [folder / name for name in sorted(files) if name.startswith("test")]


def use_network(repository: Repository, in_channels: int, data_channels: int) -> list[Path]:
    photos = repository.path.parent / "photos"
    files = write_photos(photos)
    (repository.path / "tiny.py").write_text(TINY_MODEL.replace("Conv2d(3", f"Conv2d({in_channels}"))
    data = {"name": "image_folder", "path": str(photos), "limit": None, "channels": data_channels}
    repository.set_params({**PARAMS, "data": data})
    return files


def ptqflow_run(repository: Repository, *arguments: str) -> str:
    return repository.run("env", "PYTHONPATH=src", "ptqflow", *arguments).output


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "color"), [pytest.param(1, "L", marks=pytest.mark.extra), (4, "RGBA")])
def test_a_network_of_ones_own_for_grey_or_rgba_images_runs_from_their_files_to_predictions_of_them(
    repository: Repository, channels: int, color: str
) -> None:
    files = use_network(repository, channels, channels)
    repository.run("dvc", "repro")

    export = repository.path / "models/export"
    described = json.loads((export / "model.json").read_text())
    means, stds = (described["input"][part] for part in ("mean", "std"))
    assert (described["preprocessing"]["color"], len(means), len(stds)) == (color, channels, channels)
    assert onnxruntime_session(export / INT8_ONNX).get_inputs()[0].shape[1:] == [channels, 16, 16]
    assert json.loads(repository.read("metrics/evaluate.json"))["int8_top1"] > 0.9
    inspected = ptqflow_run(repository, "inspect", "models/export")
    assert f"(N, {channels}, 16, 16), " in inspected
    assert f" 16x16 (bilinear), {color}\n" in inspected
    verified = ptqflow_run(repository, "verify", "models/export", "--data", "data/dataset")
    assert "onnxruntime: passed" in verified

    stored = np.load(repository.path / "data/dataset/test_images.npy")
    assert stored.shape == (80, 16, 16, channels)
    classifier = ptqflow.load(export, "onnxruntime")
    images = [Image.open(file) for file in files]
    assert np.array_equal(classifier(images), classifier(stored)), "files are decoded as fetch did"
    predicted = ptqflow_run(
        repository, "predict", "models/export", *map(str, files), "--json", "-k", "1", "--runtime", "onnxruntime"
    )
    names = [json.loads(line)["top"][0]["class"] for line in predicted.splitlines()]
    assert names == [classifier.classes[i] for i in classifier(stored).argmax(axis=1)]

    repository.run("dvc", "repro", "pipelines/benchmark/dvc.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_channels", "data_channels", "remedy"),
    [(1, 3, "set data.channels to 1"), (3, 4, "set data.channels to 3"), (5, 1, "compute its 5 from them")],
)
def test_a_network_for_another_number_of_channels_is_refused_before_it_is_trained(
    repository: Repository, in_channels: int, data_channels: int, remedy: str
) -> None:
    use_network(repository, in_channels, data_channels)
    result = repository.try_run("dvc", "repro")
    assert_one_clear_line(result, "dry_run: ", f"in_channels={in_channels} (0)", f"have {data_channels};", remedy)
    assert result.ran[-1] == "dry_run"
    assert "epoch" not in result.output
