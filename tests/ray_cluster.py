"""A cluster of Ray on this machine: nodes as processes of their own, each with the ptqflow of a clone."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import psutil
from repository import Repository

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "500",  # a lost node is noticed in seconds
}


def with_ptqflow_of(clone: Path) -> list[str]:
    """Return the start of a command line that runs a command with the ptqflow of a clone."""
    path = os.pathsep.join(filter(None, [str(clone / "src"), os.environ.get("PYTHONPATH")]))
    return ["env", f"PYTHONPATH={path}", *(f"{name}={value}" for name, value in _SETTINGS.items())]


def sweep_command(clone: Path, *arguments: str) -> list[str]:
    """Return the command line of a sweep in a clone."""
    return [*with_ptqflow_of(clone), sys.executable, "-m", "ptqflow.cli", "sweep", *arguments]


def wait_until(is_so: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@dataclass
class Cluster:
    """A head without cores, and nodes of one core each."""

    address: str
    nodes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)

    def add(self, clone: Repository, name: str) -> None:
        """Add a node, as a host in whose clone `ray start` is run."""
        self.nodes |= {name: _start(clone, name, f"--address={self.address}", "--num-cpus=1")}

    def kill(self, name: str) -> None:
        """Kill a node at once with all of its processes, as a host that loses its power."""
        process = self.nodes.pop(name)
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()


@contextmanager
def cluster(clone: Repository) -> Iterator[Cluster]:
    """Run a cluster whose head has the ptqflow of a clone; kill all of it at the end."""
    folder = mkdtemp(prefix="ray-", dir="/tmp")  # a short path: that of a socket is limited to 107 bytes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = Cluster(f"127.0.0.1:{port}")
    options = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        started.nodes["head"] = _start(clone, "head", *options)
        yield started
    finally:
        for name in [*started.nodes]:
            started.kill(name)
        shutil.rmtree(folder, ignore_errors=True)


def _start(clone: Repository, name: str, *options: str) -> "subprocess.Popen[str]":
    log = clone.path.parent / f"{name}.log"
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-name={name}", *options]
    common = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    ports = ["--min-worker-port=0", "--max-worker-port=0"]  # random ones: nodes of one machine must not share them
    with log.open("w") as output:
        process = clone.start(*with_ptqflow_of(clone.path), *start, *common, *ports, output=output)
    wait_until(lambda: "Ray runtime started" in log.read_text())
    return process
