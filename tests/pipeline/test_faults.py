"""Bad input, killed processes and Ctrl-C, with real dvc and real signals."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import processes_of
from repository import STAGES, Repository, Result, outputs_of

pytestmark = pytest.mark.slow

ENDLESS = {"train": {"epochs": 10**6}}


def assert_one_clear_line(result: Result, *words: str) -> None:
    lines = [line for line in result.output.splitlines() if all(word in line for word in words)]
    assert result.status != 0
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("calib", "batchs", 3, ("calib.batchs", "unknown", "did you mean batches?")),
        pytest.param(*("calib", "batches", "three", ("calib.batches", "'three'", "integer")), marks=pytest.mark.slow),
        pytest.param(*("calib", "batches", 0, ("calib.batches", "0", "greater than 0")), marks=pytest.mark.slow),
        ("calib", "batches", 999, ("calib.batches=999", "may be at most 22")),
        pytest.param(
            *("convert", "engine", "tensorrt", ("convert.engine", "'tensorrt'", "'onednn'")), marks=pytest.mark.slow
        ),
        pytest.param(
            *("convert", "overrides", {"layer9": "mse"}, ("convert.overrides", "'layer9'", "near names")),
            marks=pytest.mark.slow,
        ),
        pytest.param(*("train", "lr", -1.0, ("train.lr", "-1.0", "greater than 0")), marks=pytest.mark.slow),
        pytest.param(*("model", "name", "resnet19", ("model.name", "'resnet19'", "resnet18")), marks=pytest.mark.slow),
        pytest.param(
            *("model", "weights", "nowhere.pt", ("model.weights", "nowhere.pt", "does not exist")),
            marks=pytest.mark.slow,
        ),
        pytest.param(*("data", "path", "nowhere", ("data.path=nowhere", "image_folder")), marks=pytest.mark.slow),
        pytest.param(*("data", "name", "mnist", ("data.name", "'mnist'", "'cifar10'")), marks=pytest.mark.slow),
    ],
)
def test_a_bad_param_is_one_line_that_names_it_and_corrected_all_comes_back_without_a_stage_running_again(
    repository: Repository, section: str, key: str, value: object, words: tuple[str, ...]
) -> None:
    before = repository.contents("data", "models", "metrics")
    good = repository.read("params.yaml")
    stages = list(STAGES)
    outputs = {stage: repository.contents(*outputs_of(stage)) for stage in stages}
    repository.set_params({section: {key: value}})

    result = repository.try_run("dvc", "repro")

    assert_one_clear_line(result, *words)
    failed = result.ran[-1]
    assert failed == "inputs" or repository.contents(*outputs_of(failed)) == {}, "dvc clears them, but for the links"
    for stage in stages[stages.index(failed) + 1 :]:
        assert repository.contents(*outputs_of(stage)) == outputs[stage], f"{stage} was not reached"
    (repository.path / "params.yaml").write_text(good)
    assert set(repository.run("dvc", "repro").ran) <= {"inputs"}
    assert repository.contents("data", "models", "metrics") == before


def test_a_named_pipe_at_data_path_is_reported_before_dvc_waits_for_it(repository: Repository) -> None:
    folder = repository.path.parent / "photos/cat"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    repository.set_params({"data": {"name": "image_folder", "path": str(folder.parent)}})

    result = repository.try_run("dvc", "repro")

    assert_one_clear_line(result, f"inputs: data.path: {folder}/pipe is neither a file nor a folder; remove it")


def test_a_data_path_that_holds_the_pipelines_own_outputs_is_refused_before_they_are_read(
    repository: Repository,
) -> None:
    folder = repository.path / "data/cat"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"")
    repository.set_params({"data": {"name": "image_folder", "path": "data"}})

    result = repository.try_run("dvc", "repro")

    assert_one_clear_line(result, "inputs: data.path:", "data overlaps with", "data/dataset", "folder of their own")
    assert result.ran == ["inputs"]


def test_a_misspelt_key_on_the_command_line_is_refused(repository: Repository) -> None:
    result = repository.try_run("dvc", "exp", "run", "-S", "calib.batchs=3")
    assert result.status != 0
    assert "batchs" in result.output
    assert result.ran == []


def test_a_failed_run_leaves_models_out_of_git(repository: Repository) -> None:
    repository.set_params({"train": {"seed": 1}, "convert": {"engine": "none"}})
    assert repository.try_run("dvc", "repro").status != 0
    repository.run("git", "add", "-A")
    staged = repository.run("git", "diff", "--cached", "--name-only").output
    assert not [name for name in staged.splitlines() if name.startswith(("models/", "data/", "inputs/"))]


@pytest.mark.parametrize("victim", ["stage", "dvc"])
@pytest.mark.parametrize("moment", ["python3", "libtorch_cpu", "train_images.npy"])
def test_kill_at_any_moment_leaves_no_orphan_and_the_next_repro_is_identical(
    repository: Repository, victim: str, moment: str
) -> None:
    lock = repository.read("dvc.lock")
    repository.set_params(ENDLESS)
    with repository.running("dvc", "repro", "train") as dvc:
        stage = wait_for_stage(dvc.pid, "train")
        wait_until_mapped(stage, moment)
        os.kill(dvc.pid if victim == "dvc" else stage, signal.SIGKILL)
        wait_until_none_is_left(dvc.pid)
    repository.run("git", "checkout", "params.yaml")
    repository.run("dvc", "repro")
    assert repository.read("dvc.lock") == lock


def test_a_dvc_killed_while_the_stage_starts_leaves_no_orphan(repository: Repository) -> None:
    (repository.path / "stages/train.py").write_text(
        "import time\nfrom ptqflow.core.stage import run\nrun('train', lambda: time.sleep(3600))\n"
    )
    for moment in range(6):
        with repository.running("dvc", "repro", "--single-item", "train") as dvc:
            wait_for_child(dvc.pid, "stages/train.py")
            time.sleep(moment * 0.005)  # at whichever, the stage must not outlive it
            dvc.kill()
            wait_until_none_is_left(dvc.pid)


def test_ctrl_c_ends_dvc_and_a_stage_that_would_run_for_long(repository: Repository) -> None:
    repository.set_params(ENDLESS)
    with Path("output").open("w+") as output, repository.running("dvc", "repro", "train", output=output) as dvc:
        wait_until_mapped(wait_for_stage(dvc.pid, "train"), "libtorch_cpu")
        os.killpg(dvc.pid, signal.SIGINT)
        wait_until_none_is_left(dvc.pid)
    assert "Traceback" not in Path("output").read_text()
    repository.run("git", "checkout", "params.yaml")
    repository.run("dvc", "repro")


def test_a_second_repro_beside_the_first_learns_who_is_busy(repository: Repository) -> None:
    repository.set_params(ENDLESS)
    with repository.running("dvc", "repro", "train") as first:
        stage = wait_for_stage(first.pid, "train")
        second = repository.try_run("dvc", "repro", "train")
        assert second.status != 0
        assert "busy" in second.output
        assert first.poll() is None
        assert stage in processes_of(first.pid)


def wait_for_child(dvc: int, word: str) -> int:
    """Return the process with `word` in its command line that `dvc` has started, at the first sight of it."""
    for _ in moments():
        for pid, command in processes_of(dvc).items():
            if pid != dvc and word in command:
                return pid
    raise AssertionError(f"no process with {word!r} has appeared")


def wait_for_stage(dvc: int, stage: str) -> int:
    """Return the process of a stage script that `dvc` has started, once it runs Python."""
    return wait_for_child(dvc, f"python stages/{stage}.py")


def wait_until_mapped(pid: int, file: str) -> None:
    """Return once the process has come so far that this file is in its memory."""
    for _ in moments():
        if file in Path(f"/proc/{pid}/maps").read_text():
            return
    raise AssertionError(f"{pid} has not mapped {file}")


def wait_until_none_is_left(session: int) -> None:
    """Return once all processes of a session have ended."""
    for _ in moments():
        if not (left := processes_of(session)):
            return
    raise AssertionError(f"{left} are still running")


def moments() -> Iterator[None]:
    """Yield now and again, for as long as something may take on a busy machine."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        yield
        time.sleep(0.002)
