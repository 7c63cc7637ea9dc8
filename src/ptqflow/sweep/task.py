"""What a task of Ray does on the host that it is scheduled on."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ptqflow.core.errors import PtqflowError, describe_os_error, one_line
from ptqflow.core.figures import EvaluateMetrics, UnlabelledMetrics, read_evaluate_metrics
from ptqflow.core.paths import HEADLINE
from ptqflow.sweep.changes import Changes, apply_changes, read_changes
from ptqflow.sweep.clone import Clone, CommandError, cloned, run_command
from ptqflow.sweep.host import Host, describe_host, find_difference
from ptqflow.sweep.plan import Job, Stage

_EVALUATE = "evaluate"


@dataclass(frozen=True)
class Sweep:
    """What all jobs of a sweep have in common."""

    commit: str
    versions: tuple[tuple[str, str | None], ...]
    """Of the packages of the host that starts the sweep."""
    stages: tuple[Stage, ...]
    git_remote: str
    """URL that experiments are pushed to."""
    author: tuple[str, str]
    """Name and email, of the experiments' commits."""


@dataclass(frozen=True)
class Finished:
    """A job that has ended well."""

    changes: Changes
    """What later jobs start from, of a job that others share; else empty."""
    ran: tuple[str, ...]
    """Stages that ran; the others came from the cache or the remote."""
    seconds: float
    figures: EvaluateMetrics | UnlabelledMetrics | None
    """None where the job does not evaluate."""


@dataclass(frozen=True)
class Failed:
    """A job that has failed, or a host that cannot take part."""

    message: str
    is_of_host: bool
    """Whether another host may succeed."""


def run_job(job: Job, sweep: Sweep, before: Sequence[Changes]) -> Finished | Failed:
    """Run a job in a clone; push what it made, and the experiment if it is one.

    Args:
        job: what to run.
        sweep: what it has in common with the others.
        before: changes of the jobs that it needs.
    """
    started = time.monotonic()
    try:
        host = describe_host()
        if difference := find_difference(host, sweep.commit, sweep.versions):
            return Failed(difference, is_of_host=True)
        with cloned(host.clone, sweep.author) as clone:
            apply_changes(clone.path, before)
            ran = _reproduce(clone, job, sweep)
            changes = {} if job.experiment else read_changes(clone.path)
            return Finished(changes, ran, time.monotonic() - started, _read_figures(clone, job, sweep))
    except CommandError as error:
        if error.is_full_disk:
            return Failed(f"its disk is full: free some space in {host.clone} ({error})", is_of_host=True)
        return Failed(str(error), is_of_host=False)
    except DvcException as error:  # of the configuration of this host's clone
        return Failed(f"dvc: {error}", is_of_host=True)
    except OSError as error:
        return Failed(describe_os_error(error), is_of_host=True)
    except PtqflowError as error:
        return Failed(str(error), is_of_host=False)


def check_host(sweep: Sweep, probe: str) -> str | None:
    """Return why this host cannot take part in a sweep; None where it can.

    Args:
        sweep: what its jobs need.
        probe: name of a file that the host which starts the sweep has written in its DVC remote.
    """
    try:
        host = describe_host()
        if difference := find_difference(host, sweep.commit, sweep.versions):
            return difference
        run_command(["git", "ls-remote", "--quiet", sweep.git_remote, "HEAD"], host.clone)
        return _find_probe(host, probe)
    except Exception as error:  # of git, of DVC or of a remote's library: they share no class
        return one_line(error)


def _find_probe(host: Host, probe: str) -> str | None:
    with Repo(str(host.clone)) as repo:
        remote = repo.cloud.get_remote()
        if remote.fs.exists(remote.fs.join(remote.path, probe)):
            return None
    return (
        f"its DVC remote '{remote.name}' ({remote.path}) is not that of the host which starts the sweep: "
        "use a remote that all hosts share"
    )


def _reproduce(clone: Clone, job: Job, sweep: Sweep) -> tuple[str, ...]:
    """Run the stages of a job and push what they made; return those that ran."""
    clone.set_params(job.overrides)
    if links := [stage.name for stage in sweep.stages if not stage.is_cached]:
        # First, for `--pull` does not run a stage whose dvc.lock is up to date, and no cache has these outputs.
        clone.dvc("repro", "--single-item", *links)
    if job.experiment is None:
        printed = clone.dvc("repro", "--pull", *job.targets)
        clone.dvc("push", *job.targets)
    else:
        printed = clone.dvc("exp", "run", "--pull", "--name", job.experiment, *job.targets)
        # A job that was killed after its push is run again: the results are the same, their commit has another time.
        clone.dvc("exp", "push", "--force", sweep.git_remote, job.experiment)
    return tuple(re.findall(r"^Running stage '([^']+)'", printed, re.MULTILINE))


def _read_figures(clone: Clone, job: Job, sweep: Sweep) -> EvaluateMetrics | UnlabelledMetrics | None:
    if job.experiment is None or _EVALUATE not in (stage.name for stage in sweep.stages):
        return None
    return read_evaluate_metrics(Path(clone.path / HEADLINE))
