"""Ray: the hosts of its cluster, and jobs on them in the order of what they need."""

import logging
import os
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from ptqflow.core.errors import LaunchError, one_line
from ptqflow.core.machine import usable_cores
from ptqflow.sweep.changes import Changes
from ptqflow.sweep.plan import Job
from ptqflow.sweep.task import Failed, Finished, Sweep, check_host, run_job

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without GPUs: Ray's next default, no warning
try:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    if error.name != "ray":
        raise
    raise LaunchError("Ray is not installed: run `pip install 'ptqflow[sweep]'`") from error

_RETRIES = 3  # of a job whose worker or host was lost
_WAIT = 2.0  # seconds between looks at the hosts
_CONNECT = 10.0  # seconds
_OBJECTS = 100 * 2**20  # bytes; Ray takes a third of the memory otherwise, and jobs pass a few hundred bytes


@dataclass(frozen=True)
class Resources:
    """What a job takes of a host."""

    cpus: int
    gpus: float


@dataclass
class Cluster:
    """A connection to a cluster of Ray."""

    resources: Resources
    report: Callable[[str], None]
    """Called with a line about hosts."""
    refused: dict[str, str] = field(default_factory=dict)
    """Hosts that take no more jobs, by Ray's node ID, and why."""

    def hosts(self) -> dict[str, str]:
        """Return the names of the hosts that are alive and large enough, by Ray's node ID."""
        return {
            node["NodeID"]: _name(node)
            for node in ray.nodes()
            if node["Alive"]
            and node["Resources"].get("CPU", 0) >= self.resources.cpus
            and node["Resources"].get("GPU", 0) >= self.resources.gpus
        }

    def check(self, sweep: Sweep, probe: str) -> None:
        """Check that every host can take part.

        Raises:
            LaunchError: one cannot, or none is large enough.
        """
        hosts = self.hosts()
        if not hosts:
            cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
            raise LaunchError(
                f"no host has {self.resources.cpus} cores and {self.resources.gpus:g} GPUs for a job (most cores: "
                f"{cores}): set --cpus and --gpus to what a host has, or add a host with `ray start`"
            )
        checks = {
            node: ray.remote(check_host)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(sweep, probe)
            for node in hosts
        }
        problems = [f"host {hosts[node]}: {problem}" for node, ref in checks.items() if (problem := _result(ref))]
        if problems:
            raise LaunchError("; ".join(problems))

    def run(self, jobs: Sequence[Job], sweep: Sweep) -> Generator[tuple[Job, str, Finished | Failed], None, None]:
        """Run jobs, each after those that it needs; yield each that ends, with the name of its host.

        A job whose worker or host is lost, or whose host turns out not to be able to run it, is run on another one. A
        job that needs one that failed is not run. What runs is cancelled when the caller stops iterating.
        """
        order = TopologicalSorter({job: job.needs for job in jobs})
        order.prepare()
        changes: dict[Job, Changes] = {}
        running: dict[Any, Job] = {}
        hosts = self.hosts()
        try:
            while True:
                running |= {self._submit(job, sweep, changes): job for job in order.get_ready()}
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=_WAIT)
                hosts = self._watch(hosts)
                for ref in done:
                    job = running.pop(ref)
                    node, outcome = _outcome(ref)
                    if isinstance(outcome, Failed) and outcome.is_of_host and self._refuse(node, hosts, outcome):
                        running[self._submit(job, sweep, changes)] = job
                        continue
                    if isinstance(outcome, Finished):
                        changes[job] = outcome.changes
                        order.done(job)
                    yield job, hosts.get(node, "?"), outcome
        finally:
            _cancel(list(running))

    def _submit(self, job: Job, sweep: Sweep, changes: dict[Job, Changes]) -> Any:
        avoided = f"!in({','.join(self.refused)})"
        return (
            ray.remote(_run_here)
            .options(
                name=job.experiment or "shared",
                num_cpus=self.resources.cpus,
                num_gpus=self.resources.gpus,
                max_retries=_RETRIES,
                scheduling_strategy="SPREAD",
                **({"label_selector": {"ray.io/node-id": avoided}} if self.refused else {}),
            )
            .remote(job, sweep, [changes[need] for need in job.needs])
        )

    def _refuse(self, node: str, hosts: dict[str, str], failure: Failed) -> bool:
        """Submit no more jobs to a host; return whether there is another one."""
        if node not in self.refused:
            self.refused[node] = failure.message
            self.report(f"host {hosts.get(node, '?')} takes no more jobs: {failure.message}")
        return bool(self.hosts().keys() - self.refused.keys())

    def _watch(self, before: dict[str, str]) -> dict[str, str]:
        """Report hosts that have come or gone; return all that were ever seen."""
        now = self.hosts()
        for node in before.keys() - now.keys() - self.refused.keys():
            self.refused[node] = "lost"
            self.report(f"host {before[node]} is lost; its jobs are run on another one")
        for node in now.keys() - before.keys():
            self.report(f"host {now[node]} has joined")
        return before | now


def connect(address: str | None, resources: Resources, report: Callable[[str], None]) -> Cluster:
    """Connect to the cluster of Ray at an address, or start one of this host alone.

    Raises:
        LaunchError: there is no such cluster, or it has other versions of Ray or Python.
    """
    if address and ":" in address:
        _require_reachable(address)
    of_this_host = {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": _OBJECTS}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **({} if address else of_this_host),
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = one_line(error)
        where = f"at {address}" if address else "of this host"
        raise LaunchError(
            f"the cluster of Ray {where} cannot be reached ({reason}): start it with `ray start --head`, and run "
            "ptqflow on one of its hosts"
        ) from error
    ray._private.worker._worker_logs_enabled = False  # Ray's paragraphs about lost hosts: `report` has a line for each
    return Cluster(resources, report)


def _require_reachable(address: str) -> None:
    """Check that something listens; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError) as error:
        raise LaunchError(
            f"--address {address} cannot be reached ({error}): set it to what `ray start --head` printed, such as "
            "10.0.0.1:6379, or to auto"
        ) from error


def disconnect() -> None:
    """End the connection, and the cluster if `connect` has started it."""
    ray.shutdown()


def _run_here(job: Job, sweep: Sweep, before: list[Changes]) -> tuple[str, Finished | Failed]:
    return ray.get_runtime_context().get_node_id(), run_job(job, sweep, before)


def _outcome(ref: Any) -> tuple[str, Finished | Failed]:
    try:
        outcome: tuple[str, Finished | Failed] = ray.get(ref)
    except RayError as error:
        return "", Failed(f"Ray: {_last_line(error)}", is_of_host=False)
    return outcome


def _result(ref: Any) -> str | None:
    try:
        result: str | None = ray.get(ref)
    except RayError as error:
        return _last_line(error)
    return result


def _last_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()[-1:]), type(error).__name__)


def _cancel(running: list[Any]) -> None:
    """End what is running: dvc and its stage, too."""
    for ref in running:
        ray.cancel(ref)  # as Ctrl-C, so that a task removes its clone
    if running:
        ray.wait(running, num_returns=len(running), timeout=10)
    for ref in running:
        ray.cancel(ref, force=True)


def _name(node: dict[str, Any]) -> str:
    """Return the name that `ray start --node-name` has set, else the host's."""
    name, address = node["NodeName"], node["NodeManagerAddress"]
    return str(node["NodeManagerHostname"] if name == address else name)
