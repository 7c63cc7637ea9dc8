"""A killed training resumes, with real dvc and real signals."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from pipeline.test_faults import moments, wait_for_stage, wait_until_none_is_left
from repository import Repository

pytestmark = pytest.mark.slow

# Ends the stage `train` where a file says so; `dry_run` runs it too. The buffer makes a checkpoint large enough to be
# seen while it is written.
DYING_MODEL = """
import json
import os
import signal
from pathlib import Path

import torch
from torch import nn


class Dying(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Dropout(0.2), nn.Linear(32, num_classes),
        )
        self.register_buffer("ballast", torch.zeros(10_000_000))
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        order = Path("die")
        trains = os.environ.get("DVC_STAGE") == "train"
        if trains and order.exists() and order.read_text() == f"{self.training} {self.forwards}":
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(x)


def build(num_classes):
    return Dying(num_classes)
"""

RECIPE = {
    "train": {
        "epochs": 6,
        "batch_size": 32,
        "ema_decay": 0.9,
        "select": "best",
        "schedule": "one_cycle",
    },
    "run": {"checkpoint_every": 1},
}
# The network is called once before it is trained, then for 6 batches an epoch; its moving average, a copy, for one.
INSIDE_THE_FOURTH_EPOCH = f"True {1 + 3 * 6 + 3}"
AFTER_THE_FOURTH_EPOCH = f"False {1 + 4}"


@pytest.fixture(scope="module")
def trained(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository in which nothing was killed."""
    repository = Repository(tmp_path_factory.mktemp("trained") / "a clone")
    shutil.copytree(reproduced, repository.path, symlinks=True)
    (repository.path / "tiny.py").write_text(DYING_MODEL)
    repository.set_params(RECIPE)
    repository.run("dvc", "repro", "--no-run-cache", "train")
    return repository


@pytest.fixture
def untrained(trained: Repository, tmp_path: Path) -> Repository:
    copy = Repository(tmp_path / "a clone")
    shutil.copytree(trained.path, copy.path, symlinks=True)
    for output in ("models/fp32", "metrics/plots/train.csv"):
        path = copy.path / output
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy.run("git", "checkout", "dvc.lock")  # of before the run
    return copy


OUTPUTS = ("models/fp32", "metrics/plots/train.csv", "dvc.lock")


def assert_resumes(repository: Repository, trained: Repository, after: int) -> None:
    output = repository.run("dvc", "repro", "--no-run-cache", "train").output
    assert f"resuming after epoch {after} from checkpoints/" in output
    assert repository.contents(*OUTPUTS) == trained.contents(*OUTPUTS)
    assert not (repository.path / "checkpoints").exists()


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(INSIDE_THE_FOURTH_EPOCH, id="inside"),
        pytest.param(AFTER_THE_FOURTH_EPOCH, id="between", marks=pytest.mark.extra),
    ],
)
def test_killed_in_or_between_epochs_it_ends_with_the_same_bits(
    untrained: Repository, trained: Repository, order: str
) -> None:
    (untrained.path / "die").write_text(order)
    result = untrained.try_run("dvc", "repro", "--no-run-cache", "train")
    assert result.status != 0
    assert not (untrained.path / "die").exists(), "it died where the file said"
    assert len(untrained.read("metrics/plots/train.csv").splitlines()) == 1 + 3, "the curve follows the training"

    assert_resumes(untrained, trained, after=3)


def test_killed_while_a_checkpoint_is_written_it_resumes_from_the_previous_one(
    untrained: Repository, trained: Repository
) -> None:
    with untrained.running("dvc", "repro", "--no-run-cache", "train") as dvc:
        stage = wait_for_stage(dvc.pid, "train")
        for _ in moments():
            if list(untrained.path.glob("checkpoints/*/.000003-*.partial")):
                os.kill(stage, signal.SIGKILL)
                break
        wait_until_none_is_left(dvc.pid)
    assert not list(untrained.path.glob("checkpoints/*/000003-*")), "or it was written before it died"

    assert_resumes(untrained, trained, after=2)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(untrained: Repository, trained: Repository) -> None:
    (untrained.path / "die").write_text(AFTER_THE_FOURTH_EPOCH)
    untrained.try_run("dvc", "repro", "--no-run-cache", "train")
    newest = max(untrained.path.glob("checkpoints/*/*"))
    newest.write_bytes(newest.read_bytes()[:-1])

    output = untrained.run("dvc", "repro", "--no-run-cache", "train").output

    assert f"train: {newest.relative_to(untrained.path)} is skipped: it is truncated or was changed\n" in output
    assert "resuming after epoch 2 from" in output
    assert untrained.contents(*OUTPUTS) == trained.contents(*OUTPUTS)


def test_a_checkpoint_of_other_params_is_not_resumed(untrained: Repository) -> None:
    (untrained.path / "die").write_text(AFTER_THE_FOURTH_EPOCH)
    untrained.try_run("dvc", "repro", "--no-run-cache", "train")
    untrained.set_params({"train": {"lr": 0.02}})

    assert "resuming" not in untrained.run("dvc", "repro", "--no-run-cache", "train").output


def test_dvclive_logs_the_run_and_leaves_nothing_for_git_or_the_lock(trained: Repository) -> None:
    live = json.loads(trained.read("live/metrics.json"))
    assert live["epoch"] == 6
    assert {"train_loss", "train_top1", "val_loss", "val_top1", "lr", "images_per_second"} <= live.keys()
    assert "live" not in trained.run("git", "status", "--porcelain").output
    assert "images_per_second" not in trained.read("dvc.lock")
    assert "images_per_second" in trained.run("dvc", "metrics", "show", "live/metrics.json").output
