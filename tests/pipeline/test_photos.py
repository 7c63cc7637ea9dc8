"""A checkpoint and a folder of photos without labels, with real dvc."""

import json
import re
import shutil

import pytest
from pipeline.test_faults import assert_one_clear_line
from repository import Repository
from samples import png, write_folder

ABOUT_ACCURACY = re.compile(r"top-?1|top-?5|accura|McNemar|p = |\bloss\b|drop", re.IGNORECASE)


@pytest.fixture
def photos(repository: Repository) -> Repository:
    """The repository with 30 photos without labels and the weights that it has trained."""
    weights = repository.path.parent / "weights.safetensors"
    shutil.copy(repository.path / "models/fp32/weights.safetensors", weights)
    files = {f"{folder}{i}.png": png(i) for i in range(30) for folder in [["", "trip/"][i % 2]]}
    folder = write_folder(repository.path.parent / "photos", files)
    data = {"name": "photos", "path": str(folder), "limit": None, "test_fraction": 0.5}
    repository.set_params({"data": data, "model": {"weights": str(weights)}, "train": {"epochs": 0}})
    repository.set_params({"calib": {"batches": 10, "batch_size": 32}})
    return repository


@pytest.mark.slow
@pytest.mark.extra
def test_thirty_photos_end_in_a_model_a_report_and_no_word_about_accuracy(photos: Repository) -> None:
    output = photos.run("dvc", "repro").output

    assert "calib: 13 images" in output
    found = re.search(r"INT8 predicts what FP32 predicts for (\d+) of 15 images", output)
    assert found
    metrics = json.loads(photos.read("metrics/evaluate.json"))
    assert metrics["agreement"] == pytest.approx(int(found[1]) / 15, abs=1e-6)
    assert metrics.keys() == {
        *("agreement", "uncalibrated_agreement", "median_sqnr_db", "p5_sqnr_db", "kl", "fp32_mb", "int8_mb")
    }
    report = re.sub(
        r"<style>.*?</style>|<details>.*?</details>|data:image[^\"]*",
        "",
        photos.read("report/index.html"),
        flags=re.DOTALL,
    )
    summary = photos.run("env", "PYTHONPATH=src", "python", "-m", "ptqflow", "summary").output
    for text in (report, summary):
        assert ABOUT_ACCURACY.findall(text) == []
    assert "of 15 images without labels" in photos.run("ptqflow", "inspect", "models/export").output
    verified = photos.run("ptqflow", "verify", "models/export", "--data", "data/dataset").output
    assert "onnxruntime: passed: predicts what torch's INT8 network did for" in verified


@pytest.mark.slow
def test_what_needs_labels_is_refused_in_one_line_that_says_what_to_set(photos: Repository) -> None:
    photos.set_params({"model": {"weights": None}})
    assert_one_clear_line(photos.try_run("dvc", "repro", "calib"), "model.weights is null", "set it to the trained")

    photos.set_params({"model": {"weights": str(photos.path.parent / "weights.safetensors")}, "train": {"epochs": 1}})
    assert_one_clear_line(
        photos.try_run("dvc", "repro", "calib"), "train.epochs is 1", "no labels to train with; set it to 0"
    )

    photos.set_params({"train": {"epochs": 0}, "convert": {"max_drop": 1}})
    assert_one_clear_line(photos.try_run("dvc", "repro", "convert"), "convert.max_drop is 1", "set it to null")
