"""DVCLive in real repositories."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ptqflow.core.errors import PtqflowWarning
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.data.accuracy import Evaluation
from ptqflow.train.live import live_log
from ptqflow.train.loop import Epoch

EPOCHS = [Epoch(n, 1.0 / n, 0.25, Evaluation(top1=0.5, top5=0.9, loss=2.0), 0.1, 123.4) for n in (1, 2)]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def _repository() -> None:
    run("git", "init", "-q", ".")
    run(str(Path(sys.executable).with_name("dvc")), "init", "-q")


def log_all(ranks: Ranks = ALONE) -> None:
    with live_log(Path("live"), ranks) as log:
        for epoch in EPOCHS:
            log(epoch)


@pytest.mark.usefixtures("_repository")
def test_the_newest_epoch_is_in_the_file_that_dvc_reads(capsys: pytest.CaptureFixture[str]) -> None:
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")
    status = run("git", "status", "--porcelain")
    log_all()

    assert json.loads(Path("live/metrics.json").read_text()) == {
        "epoch": 2,
        "train_loss": 0.5,
        "train_top1": 0.25,
        "val_loss": 2.0,
        "val_top1": 0.5,
        "lr": 0.1,
        "images_per_second": 123.4,
        "step": 2,
    }
    assert [file.name for file in Path("live").rglob("*")] == ["metrics.json"]
    assert capsys.readouterr().out.splitlines() == [str(epoch) for epoch in EPOCHS]
    assert run("git", "status", "--porcelain") == f"{status}?? live/\n"


@pytest.mark.usefixtures("_repository")
def test_a_full_disk_for_the_databases_of_dvc_is_a_warning_and_the_lines_are_printed(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(small_disk))
    (small_disk / "filler").write_bytes(bytes((1 << 20) - (1 << 15)))

    with pytest.warns(PtqflowWarning, match="no figures in live; training continues: d"):
        log_all()

    assert capsys.readouterr().out.splitlines() == [str(epoch) for epoch in EPOCHS]


@pytest.mark.usefixtures("_repository")
def test_a_repository_without_a_commit_has_the_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log_all()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_outside_a_repository_there_are_the_lines_alone_and_none_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    log_all()
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert not list(Path().iterdir())


def test_a_note_is_printed_before_the_epochs_by_the_first_rank(capsys: pytest.CaptureFixture[str]) -> None:
    for ranks in (ALONE, Ranks(1, 2)):
        with live_log(Path("live"), ranks, "model.weights: renamed") as log:
            log(EPOCHS[0])
    assert capsys.readouterr().out.splitlines() == ["model.weights: renamed", str(EPOCHS[0])]


def test_one_rank_talks(capsys: pytest.CaptureFixture[str]) -> None:
    log_all(Ranks(1, 2))
    assert capsys.readouterr().out == ""
