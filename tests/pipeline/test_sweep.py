"""Sweeps over hosts: nodes of Ray as processes of their own, each with a clone and a cache of its own."""

import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray_cluster import cluster, sweep_command, wait_until
from remotes import s3
from repository import Repository
from sweeping import add_remotes, make_project

GRID = ("calib.batches=1,3", "convert.activation.method=mse,minmax")
COMBINATIONS = [(batches, method) for batches in (1, 3) for method in ("mse", "minmax")]
FIXED = "train.lr=0.02"  # so that FP32 must be trained, once
METRICS = (
    "metrics/evaluate.json",
    "metrics/plots/ranges.csv",
    "metrics/plots/calib_tensors.csv",
    "metrics/plots/train.csv",
)


def clone_of(repository: Repository, path: Path) -> Repository:
    path.parent.mkdir(parents=True)
    repository.run("git", "clone", "-q", str(repository.path), str(path))
    return Repository(path)


def serial_figures(repository: Repository) -> dict[tuple[int, str], list[str]]:
    """Return the metrics of each combination, run one after the other without a sweep."""
    figures = {}
    for batches, method in COMBINATIONS:
        sets = ["-S", FIXED, "-S", f"calib.batches={batches}", "-S", f"convert.activation.method={method}"]
        repository.run("dvc", "exp", "run", "-q", *sets, "evaluate")
        figures[batches, method] = [repository.read(file) for file in METRICS]
    return figures


def swept_figures(repository: Repository) -> dict[tuple[int, str], list[str]]:
    """Return the metrics of each experiment that the repository has."""
    refs = repository.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/sweep-*").output.split()
    figures = {}
    for ref in refs:
        params = repository.run("git", "show", f"{ref}:params.yaml").output
        batches, method = re.findall(r"^(?:  batches|    method): (\w+)", params, re.MULTILINE)[:2]
        assert (int(batches), method) not in figures, "each experiment is there once"
        figures[int(batches), method] = [repository.run("git", "show", f"{ref}:{file}").output for file in METRICS]
    return figures


@pytest.mark.slow
@pytest.mark.cluster
def test_though_hosts_fail_every_experiment_is_there_once_with_the_figures_of_a_serial_run(
    repository: Repository, small_disk: Path, tmp_path: Path
) -> None:
    serial = Repository(tmp_path / "serial" / "clone")
    shutil.copytree(repository.path, serial.path, symlinks=True)
    add_remotes(repository)
    arguments = [option for expression in (*GRID, FIXED) for option in ("-S", expression)]
    killed, kept, full, other = (clone_of(repository, tmp_path / name / "clone") for name in ("b", "c", "d", "e"))
    (full.path / ".dvc/tmp/exps").mkdir(parents=True)
    (full.path / ".dvc/tmp/exps/sweep").symlink_to(small_disk)
    other.run("git", "commit", "-q", "--allow-empty", "-m", "another commit")

    log = tmp_path / "sweep.log"
    with cluster(repository) as hosts:
        for name, clone in {"b": killed, "c": kept, "d": full, "e": other}.items():
            hosts.add(clone, name)
        command = sweep_command(repository.path, *arguments, "--address", hosts.address, "evaluate")
        refused = repository.try_run(*command)
        assert refused.status == 1
        assert re.fullmatch(r"ptqflow: host e: its clone .* is at commit .* there\n", refused.output), refused.output

        hosts.kill("e")
        with log.open("w") as output, repository.running(*command, output=output) as sweep:
            wait_until(lambda: log.read_text().count(": ran calib (") == 2 or sweep.poll() is not None, 300)
            wait_until(lambda: [*(killed.path / ".dvc/tmp/exps/sweep").glob("*/metrics")] or sweep.poll() is not None)
            hosts.kill("b")
            expected = serial_figures(serial)
            status = sweep.wait(300)
    printed = log.read_text()
    assert status == 0, printed
    assert "ptqflow: host b is lost; its jobs are run on another one" in printed
    assert re.search(
        r"^ptqflow: host d takes no more jobs: its disk is full: free some space in .*$", printed, re.MULTILINE
    )
    ran = ", ".join(re.findall(r"^shared by experiments .*: ran (.*) \(", printed, re.MULTILINE)).split(", ")
    assert sorted(ran) == ["calib", "calib", "control", "predict@fp32", "predict@int8_uncalibrated", "train"]
    assert (
        len(re.findall(r"^\d of 4: sweep-\w+ with .*: INT8 top-1 .* %, drop .*, SQNR .* dB \(c", printed, re.MULTILINE))
        > 2
    )
    assert swept_figures(repository) == expected
    shown = repository.run("dvc", "exp", "show", "--csv", "--only-changed").output
    assert len(re.findall(r"\bsweep-\w{8}\b", shown)) == 4


@pytest.mark.slow
@pytest.mark.cluster
def test_hosts_share_a_bucket_as_their_cache(tmp_path: Path) -> None:
    repository = make_project(tmp_path / "project")
    repository.run("dvc", "remote", "remove", "store")
    with s3(repository), cluster(repository) as hosts:
        for name in ("b", "c"):
            hosts.add(clone_of(repository, tmp_path / name / "clone"), name)
        command = sweep_command(repository.path, "-S", "calib.batches=1,2,3", "--address", hosts.address, "convert")
        printed = repository.run(*command).output
        alone = clone_of(repository, tmp_path / "alone" / "clone")
        for name in experiments(repository):
            alone.run("dvc", "exp", "pull", "-q", "origin", name)
            alone.run("dvc", "exp", "apply", "-q", name)
            assert alone.run("dvc", "repro", "convert").ran == []
            assert (alone.path / "convert.out").exists()
    assert len(experiments(repository)) == 3
    assert len(re.findall(r": ran .*data", printed)) == 1, printed


@pytest.mark.slow
@pytest.mark.extra
def test_ctrl_c_ends_what_runs_keeps_what_is_finished_and_the_same_command_runs_the_rest(tmp_path: Path) -> None:
    repository = make_project(tmp_path / "project")
    go = tmp_path / "go"
    wait = f"\nimport time\nwhile made[0].get('batches') == 3 and not Path({str(go)!r}).exists(): time.sleep(0.1)\n"
    (repository.path / "stage.py").write_text((repository.path / "stage.py").read_text() + wait)
    repository.commit("an experiment that does not end")
    log = tmp_path / "sweep.log"
    command = sweep_command(repository.path, "-S", "calib.batches=1,3", "calib")

    with log.open("w") as output, repository.running(*command, output=output) as sweep:
        wait_until(lambda: "1 of 2: " in log.read_text() or sweep.poll() is not None)
        wait_until(lambda: stages_below(tmp_path) or sweep.poll() is not None)
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(60) == 130
        wait_until(lambda: not stages_below(tmp_path), 20)
    assert log.read_text().splitlines()[-1] == (
        "ptqflow: interrupted: running tasks have ended; finished experiments stay, and the same command runs the rest"
    )
    assert len(experiments(repository)) == 1
    assert [*(repository.path / ".dvc/tmp/exps/sweep").iterdir()] == []

    go.touch()
    again = repository.run(*command).output
    assert re.search(r"^sweep-\w{8} exists and is not run again", again, re.MULTILINE)
    assert "1 of 1: " in again
    assert len(experiments(repository)) == 2


def experiments(repository: Repository) -> list[str]:
    return repository.run("dvc", "exp", "list", "--name-only").output.split()


def stages_below(folder: Path) -> list[int]:
    """Return the processes of stages that run in clones below a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "stage.py" in process.cmdline() and Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found
