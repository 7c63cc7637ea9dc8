"""What a sweep runs: a job for each combination, and before them what several of them share, each once."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ptqflow.core.errors import ParamsError
from ptqflow.sweep.grid import Combination, Grid


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml."""

    name: str
    params: frozenset[str]
    """Keys and sections of params.yaml that it or a stage before it lists."""
    is_cached: bool
    """Whether DVC's cache holds its outputs; those of `inputs` are links, made in each clone."""

    def depends_on(self, key: str) -> bool:
        """Return whether a key of params.yaml changes what the stage or one before it reads."""
        return any(_contains(listed, key) or _contains(key, listed) for listed in self.params)


@dataclass(frozen=True)
class Job:
    """A task: stages to reproduce with some params, in a clone of its own."""

    settings: Combination
    targets: tuple[str, ...]
    """Stages; empty: all of dvc.yaml."""
    needs: frozenset["Job"] = frozenset()
    """Jobs that make what this one only has to pull."""
    experiment: str | None = None
    """Name of the experiment that it is saved as; None for a job that others share."""

    @property
    def overrides(self) -> list[str]:
        """What DVC's `--set-param` takes."""
        return [setting.override for setting in self.settings]


def read_pipeline(targets: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages of this project that targets need, in order; without targets, those of dvc.yaml.

    Raises:
        ParamsError: a target is no stage, or dvc.yaml cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import descendants, dfs_postorder_nodes

    try:
        with Repo() as repo:
            graph = repo.index.graph  # from a stage to those that it depends on
            wanted = {stage for target in targets or ["dvc.yaml"] for stage in repo.stage.collect(target)}
            needed = wanted.union(*(descendants(graph, stage) for stage in wanted))
            return tuple(
                Stage(
                    stage.addressing,
                    frozenset(key for one in {stage, *descendants(graph, stage)} for key in _params_of(one)),
                    all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs),
                )
                for stage in dfs_postorder_nodes(graph)
                if stage in needed
            )
    except DvcException as error:
        raise ParamsError(f"dvc: {error}") from error


def _params_of(stage: Any) -> Iterable[str]:
    return itertools.chain.from_iterable(dep.params for dep in stage.params)


def plan_jobs(grid: Grid, stages: Sequence[Stage], targets: Sequence[str]) -> tuple[Job, ...]:
    """Return the jobs of a grid: one for each combination, and those that make what several of them share.

    Stages that depend on the same swept keys form one shared job for each combination of those keys' values. So a
    stage runs once for all experiments that have the same params of it and of the stages before it.

    Raises:
        ParamsError: no stage depends on a swept key.
    """
    swept = grid.swept
    if unused := sorted(key for key in swept if not any(stage.depends_on(key) for stage in stages)):
        raise ParamsError(f"-S sweeps {unused[0]}, which no stage of the sweep depends on: all results would be equal")
    groups: dict[frozenset[str], list[str]] = {}
    for stage in stages:
        keys = frozenset(key for key in swept if stage.depends_on(key))
        if keys != swept and stage.is_cached:
            groups.setdefault(keys, []).append(stage.name)
    shared: dict[tuple[frozenset[str], Combination], Job] = {}
    for keys, names in sorted(groups.items(), key=lambda group: len(group[0])):
        for settings in dict.fromkeys(_restrict(combination, swept, keys) for combination in grid.combinations):
            before = [job for (fewer, part), job in shared.items() if fewer < keys and set(part) <= set(settings)]
            shared[keys, settings] = Job(settings, tuple(names), frozenset(before))
    experiments = (
        Job(
            combination,
            tuple(targets),
            frozenset(job for (_, part), job in shared.items() if set(part) <= set(combination)),
            _name(combination, targets),
        )
        for combination in grid.combinations
    )
    return (*shared.values(), *experiments)


def without_experiments(jobs: Iterable[Job], finished: Iterable[str]) -> tuple[Job, ...]:
    """Return the jobs that are left where some experiments exist: without those, and without what only they share."""
    done = set(finished)
    left = [job for job in jobs if job.experiment is not None and job.experiment not in done]
    needed = set(left).union(*(job.needs for job in left))
    return tuple(job for job in jobs if job in needed)


def _restrict(combination: Combination, swept: frozenset[str], keys: frozenset[str]) -> Combination:
    """Return a combination without the swept keys that are not among these."""
    return tuple(setting for setting in combination if setting.key in keys or setting.key not in swept)


def _name(combination: Combination, targets: Sequence[str]) -> str:
    """Return the same name for the same experiment, so that a second run of it replaces the first."""
    described = json.dumps([sorted(setting.override for setting in combination), sorted(targets)])
    return f"sweep-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def _contains(section: str, key: str) -> bool:
    return f"{key}.".startswith(f"{section}.")
