"""The preprocessing from params.yaml to predictions, with real dvc."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline.test_faults import assert_one_clear_line
from repository import Repository
from samples import encode, random_pixels, write_folder

import ptqflow
from ptqflow.fetch.decoding import decode_image
from ptqflow.runtime.manifest import INT8_ONNX, read_manifest
from ptqflow.runtime.runtimes import onnxruntime_session

CLASSES = {"blue": (30, 60, 200), "red": (200, 60, 30)}


def photo(seed: int, color: tuple[int, int, int]) -> bytes:
    """Return a JPEG or PNG of any proportions, whose color is that of the class."""
    height, width = (int(side) for side in np.random.default_rng(seed).integers(10, 90, 2))
    noise = random_pixels(height, width, 3, seed=seed) // 4
    return encode(Image.fromarray(noise + np.array(color, np.uint8) // 2), ("JPEG", "PNG")[seed % 2])


@pytest.mark.slow
def test_another_network_that_takes_the_same_images_fetches_nothing(repository: Repository) -> None:
    repository.set_params({"model": {"name": "resnet18"}})
    assert repository.run("dvc", "repro", "fetch").ran == ["inputs"]
    repository.set_params({"data": {"interpolation": "bilinear", "resize": "fit"}})  # the defaults
    assert repository.run("dvc", "repro", "fetch").ran == ["inputs"]
    repository.set_params({"data": {"interpolation": "bicubic"}})
    assert repository.run("dvc", "repro", "fetch").ran == ["inputs", "fetch"]


@pytest.mark.slow
def test_a_key_that_contradicts_the_weights_is_one_line_before_anything_is_fetched(repository: Repository) -> None:
    repository.set_params({"model": {"name": "resnet18", "preprocessing": "torchvision:IMAGENET1K_V1"}})
    before = repository.contents("inputs")
    result = repository.try_run("dvc", "repro")
    assert_one_clear_line(result, "inputs: ", "data.image_size is 16, not 224", "set data.image_size to null")
    assert result.ran == ["inputs"]
    assert repository.contents("inputs") == before


@pytest.mark.slow
@pytest.mark.extra
def test_upright_letterboxed_bgr_images_of_0_to_255_run_from_their_files_to_predictions_of_them(
    repository: Repository,
) -> None:
    folder = repository.path.parent / "photos of two colors"
    files = {
        f"{split}/{name}/{i:03}.jpg": photo(seed + i, color)
        for split, count, seed in (("train", 60, 0), ("test", 30, 500))
        for name, color in CLASSES.items()
        for i in range(count)
    }
    write_folder(folder, files)
    changes = {
        "data": {"name": "image_folder", "path": str(folder), "limit": None},
        "model": {"mean": [90.0, 60.0, 90.0], "std": [60.0, 30.0, 60.0]},
        "train": {"epochs": 8, "batch_size": 16, "lr": 0.1},
    }
    repository.set_params(changes)
    of_images = ["data.image_size=[24,16]", "data.resize=letterbox", "data.crop=0.9", "data.channel_order=BGR"]
    arguments = [*of_images, "data.interpolation=bicubic", "model.input_range=255"]
    repository.run("dvc", "exp", "run", *(part for argument in arguments for part in ("-S", argument)))

    export = repository.path / "models/export"
    how = read_manifest(export).preprocessing
    assert (how.size, how.resized, how.color, how.resize) == ((24, 16), (26, 17), "BGR", "letterbox")
    session = onnxruntime_session(export / INT8_ONNX)
    assert session.get_inputs()[0].shape[1:] == [3, 24, 16]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preprocessing"]) == how.model_dump(mode="json")
    assert json.loads(metadata["input"])["input_range"] == 255
    assert str(how) in repository.run("env", "PYTHONPATH=src", "ptqflow", "inspect", "models/export").output
    assert str(how) in repository.read("report/index.html")

    names = sorted(name for name in files if name.startswith("test"))
    stored = np.load(repository.path / "data/dataset/test_images.npy")
    assert np.array_equal(stored, np.stack([decode_image(files[name], how) for name in names]))
    classifier = ptqflow.load(export, "onnxruntime")
    expected = classifier.classify_pixels(stored)
    assert (expected.argmax(axis=1) == [sorted(CLASSES).index(Path(name).parent.name) for name in names]).mean() > 0.9
    assert np.array_equal(classifier([Image.open(io.BytesIO(files[name])) for name in names]), expected)
    paths = [str(folder / name) for name in names]
    lines = repository.run(
        "env", "PYTHONPATH=src", "ptqflow", "predict", "models/export", *paths, "--json", "--runtime", "onnxruntime"
    ).output.splitlines()
    found = [json.loads(line)["top"][0]["class"] for line in lines]
    assert found == [classifier.classes[i] for i in expected.argmax(axis=1)]
