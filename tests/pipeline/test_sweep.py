"""A sweep over several hosts: nodes of Ray as processes of their own, each with a clone of its own."""

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from repository import Repository

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",
}
GRID = ["-S", "calib.batches=1,3", "-S", "convert.activation.method=mse,minmax", "-S", "train.lr=0.02"]
FIGURES = ("evaluate.json", "convert.json", "calib.json", "train.json")


def environment(clone: Path) -> list[str]:
    """Return `env` with what a host's environment has: the clone's ptqflow, installed from it."""
    path = os.pathsep.join(filter(None, [str(clone / "src"), os.environ.get("PYTHONPATH")]))
    return ["env", f"PYTHONPATH={path}", *(f"{name}={value}" for name, value in RAY.items())]


@pytest.fixture
def origin(repository: Repository, tmp_path: Path) -> Repository:
    """The user's repository, with a git remote and a DVC remote that all hosts reach."""
    repository.run("git", "init", "-q", "--bare", str(tmp_path / "git remote"))
    repository.run("git", "remote", "add", "origin", str(tmp_path / "git remote"))
    repository.run("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "dvc remote"))
    repository.commit("remotes")
    return repository


@contextmanager
def node(clone: Repository, name: str, *options: str) -> Iterator[psutil.Process]:
    """Run a node of Ray, with a clone's ptqflow, until the end."""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-name", name]
    ports = ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
    log = (clone.path.parent / f"{name}.log").open("w")
    with log, clone.running(*environment(clone.path), *start, *ports, *options, output=log) as process:
        wait_for(lambda: "Ray runtime started" in Path(log.name).read_text())
        yield psutil.Process(process.pid)
        kill(psutil.Process(process.pid))


def kill(process: psutil.Process) -> None:
    """Kill a node at once, with all of its workers, as a host that loses its power."""
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            one.kill()


@contextmanager
def cluster(
    head: Repository, folder: Path, hosts: dict[str, Repository]
) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """Run a head without cores, in the user's clone, and hosts of one core; yield the address and the hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        short = Path("/tmp") / f"ray-{os.getpid()}"  # the path of a socket is limited to 107 bytes
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        stack.enter_context(
            node(
                head,
                "head",
                "--head",
                "--node-ip-address=127.0.0.1",
                f"--port={port}",
                "--num-cpus=0",
                "--include-dashboard=false",
                f"--temp-dir={short}",
            )
        )
        processes = {
            name: stack.enter_context(
                node(clone, name, f"--address={address}", "--node-ip-address=127.0.0.1", "--num-cpus=1")
            )
            for name, clone in hosts.items()
        }
        yield address, processes


def wait_for(action, seconds: float = 60):
    """Repeat an action until it raises nothing and returns anything but False; return what it returned."""
    end = time.monotonic() + seconds
    while True:
        try:
            result = action()
            if result is not False:
                return result
        except OSError:
            pass
        assert time.monotonic() < end, action
        time.sleep(0.1)


def clone_of(repository: Repository, path: Path) -> Repository:
    path.parent.mkdir(parents=True)
    repository.run("git", "clone", "-q", str(repository.path), str(path))
    return Repository(path)


@pytest.mark.slow
def test_every_experiment_is_there_once_with_the_figures_of_a_serial_run_though_a_host_is_killed(
    origin: Repository, tmp_path: Path
) -> None:
    hosts = {name: clone_of(origin, tmp_path / name / "clone") for name in ("b", "c")}
    log = tmp_path / "sweep.log"
    with cluster(origin, tmp_path, hosts) as (address, processes), log.open("w") as output:
        command = [sys.executable, "-m", "ptqflow.cli", "sweep", *GRID, "--address", address, "evaluate"]
        with origin.running(*environment(origin.path), *command, output=output) as sweep:
            wait_for(lambda: log.read_text().count("ran calib") == 2, 240)
            wait_for(lambda: [*(hosts["b"].path / ".dvc/tmp/exps/sweep").glob("*")] != [])
            time.sleep(2)
            kill(processes["b"])
            status = sweep.wait(400)
    printed = log.read_text()
    print(printed)
    assert status == 0, printed
    assert "ptqflow: host b is lost; its jobs are run on another one" in printed
    shared = re.findall(r"shared by experiments with .*: ran (.*) \(", printed)
    assert sorted(", ".join(shared).split(", ")) == sorted(
        ["train", "control", "predict@fp32", "predict@int8_uncalibrated", "calib", "calib"]
    )

    names = origin.run("dvc", "exp", "list", "--name-only").output.split()
    assert len(set(names)) == len(names) == 4
    for name in names:
        ...
