"""What reruns and what does not, with real dvc in a repository of its own."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import Repository
from samples import image_files, png, write_folder

pytestmark = pytest.mark.slow

FROM_CONVERT = {"convert", "predict@int8", "evaluate", "sensitivity", "export", "report"}
FROM_CALIB = {"calib", *FROM_CONVERT}
OF_THE_CONTROL = {"control", "predict@int8_uncalibrated"}
FROM_TRAIN = {"train", "predict@fp32", *OF_THE_CONTROL, *FROM_CALIB}
FROM_DRY_RUN = {"dry_run", *FROM_TRAIN}
ALL = {"inputs", "fetch", *FROM_DRY_RUN}


def test_second_repro_runs_nothing(repository: Repository) -> None:
    result = repository.run("dvc", "repro")
    assert result.ran == []
    assert "up to date" in result.output


@pytest.mark.extra
def test_calibration_params_rerun_calib_and_what_follows(repository: Repository) -> None:
    assert set(repository.run("dvc", "exp", "run", "-S", "calib.batches=3").ran) == FROM_CALIB
    assert json.loads(repository.read("metrics/evaluate.json"))["calib_images"] == 24


@pytest.mark.extra
def test_a_range_method_predicts_with_the_int8_network_alone(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "convert.activation.method=minmax")
    assert set(result.ran) == FROM_CONVERT


@pytest.mark.extra
def test_engine_reruns_the_dry_run_the_conversions_and_what_follows_alone(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "convert.engine=qnnpack")
    assert set(result.ran) == {"dry_run"} | FROM_CONVERT | OF_THE_CONTROL


@pytest.mark.extra
def test_a_budget_that_is_met_at_once_leads_to_the_same_network_and_leaves_its_trail(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "convert.max_drop=100")
    assert set(result.ran) == {"convert", "export", "report"}
    header, trial = repository.read("metrics/plots/budget.csv").splitlines()
    assert header == "modules,drop,chosen,kept"
    assert re.fullmatch(r"0,-?\d\.\d+,True,", trial)
    assert re.search(r"0 kept FP32 .* s  -", result.output)


def test_going_back_to_old_params_runs_nothing(repository: Repository) -> None:
    before = repository.read("metrics/evaluate.json")
    repository.run("dvc", "exp", "run", "-S", "calib.batches=3", "evaluate")
    result = repository.run("dvc", "exp", "run", "-S", "calib.batches=2")
    assert result.ran == []
    assert repository.read("metrics/evaluate.json") == before


@pytest.mark.extra
def test_learning_rate_reruns_from_train(repository: Repository) -> None:
    assert set(repository.run("dvc", "exp", "run", "-S", "train.lr=0.02").ran) == FROM_TRAIN


def test_an_edited_module_reruns_the_stages_that_import_its_package(repository: Repository) -> None:
    module = repository.path / "src/ptqflow/evaluate/verdict.py"
    module.write_text(module.read_text() + "\n# edited\n")
    assert repository.run("dvc", "repro").ran == ["evaluate", "report"]


def test_same_bytes_of_a_retrained_network_skip_what_follows(repository: Repository) -> None:
    module = repository.path / "src/ptqflow/train/loop.py"
    module.write_text(module.read_text() + "\n# edited\n")
    assert repository.run("dvc", "repro").ran == ["train"]


@pytest.mark.extra
def test_forced_repro_writes_the_same_lock_byte_for_byte(repository: Repository) -> None:
    first = repository.read("dvc.lock")
    assert set(repository.run("dvc", "repro", "-f").ran) == ALL
    assert repository.read("dvc.lock") == first


def test_metrics_diff_shows_old_and_new_values_after_a_commit(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "calib.batches=3", "evaluate")
    repository.commit("three batches")
    output = repository.run("dvc", "metrics", "diff", "HEAD~1", "--json").output
    rows = json.loads(output.splitlines()[-1])  # after a warning of metrics that only the benchmark writes
    assert rows["metrics/evaluate.json"]["calib_images"] == {"old": 16, "new": 24, "diff": 8}


def test_queued_grid_makes_one_experiment_a_value(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "--queue", "-S", "calib.batches=2,4", "calib")
    repository.run("dvc", "queue", "start")
    logs = repository.run("dvc", "queue", "status").output
    for _ in range(600):
        if "Queued" not in logs and "Running" not in logs:
            break
        repository.run("sleep", "1")
        logs = repository.run("dvc", "queue", "status").output
    assert logs.count("Success") == 2, logs
    table = json.loads(repository.run("dvc", "exp", "show", "--json").output)
    images = []
    for experiment in table[-1]["experiments"]:
        repository.run("dvc", "exp", "apply", experiment["name"])
        images.append(json.loads(repository.read("models/statistics/card.json"))["images"])
        assert repository.run("dvc", "repro", "calib").ran == []
    assert sorted(images) == [16, 32]


def test_changed_bytes_at_data_path_rerun_from_fetch_and_the_same_bytes_elsewhere_rerun_nothing(
    repository: Repository,
) -> None:
    archive = _image_archive(repository.path.parent / "images.tar", seed=0)
    repository.set_params({"data": {"name": "image_folder", "path": str(archive)}})
    assert repository.run("dvc", "repro", "train").ran == ["inputs", "fetch", "dry_run", "train"]

    moved = archive.with_name("moved.tar")
    shutil.copy(archive, moved)
    repository.set_params({"data": {"path": str(moved)}})
    assert repository.run("dvc", "repro", "train").ran == ["inputs"]

    _image_archive(moved, seed=1)
    assert repository.run("dvc", "repro", "train").ran == ["inputs", "fetch", "dry_run", "train"]
    assert repository.run("dvc", "repro", "train").ran == []


@pytest.mark.parametrize(
    "name",
    [
        "train/cat/new.partial",
        pytest.param("train/__pycache__/0.png", marks=pytest.mark.slow),
        pytest.param("train/cat/__pycache__/0.png", marks=pytest.mark.slow),
    ],
)
def test_dvc_hashes_every_file_of_the_users_that_fetch_reads(repository: Repository, name: str) -> None:
    photos = write_folder(repository.path.parent / "photos", image_files(classes=("__pycache__", "cat")))
    repository.set_params({"data": {"name": "image_folder", "path": str(photos)}})
    repository.run("dvc", "repro", "fetch")

    (photos / name).parent.mkdir(exist_ok=True)
    (photos / name).write_bytes(png(99))

    assert repository.run("dvc", "repro", "fetch").ran == ["inputs", "fetch"]


@pytest.mark.extra
def test_changed_bytes_of_a_checkpoint_rerun_from_train(repository: Repository) -> None:
    weights = repository.path.parent / "weights.safetensors"
    shutil.copy(repository.path / "models/fp32/weights.safetensors", weights)
    repository.set_params({"model": {"weights": str(weights)}, "train": {"epochs": 0}})
    repository.run("dvc", "repro", "calib")
    assert repository.run("dvc", "repro", "calib").ran == []
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert repository.run("dvc", "repro", "calib").ran == ["inputs", "train", "calib"]


@pytest.mark.extra
def test_edited_code_of_the_users_network_reruns_from_the_dry_run(repository: Repository) -> None:
    code = repository.path / "tiny.py"
    code.write_text(code.read_text().replace("nn.Conv2d(3, 8,", "nn.Conv2d(3, 8, padding=1, kernel_size="))
    assert repository.run("dvc", "repro", "calib").ran == ["inputs", "dry_run", "train", "calib"]


def test_relative_paths_hold_in_a_queued_experiment_too(repository: Repository) -> None:
    _image_archive(repository.path / "data" / "mine.tar", seed=0)
    result = repository.run(
        "dvc", "exp", "run", "--temp", "-S", "data.name=image_folder", "-S", "data.path=data/mine.tar", "fetch"
    )
    assert result.ran == ["inputs", "fetch"]


def _image_archive(file: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    folder = file.parent / f"images-{seed}"
    for split, count in (("train", 30), ("test", 5)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    with tarfile.open(file, "w") as archive:
        archive.add(folder, ".")
    shutil.rmtree(folder)
    return file
