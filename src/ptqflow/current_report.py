"""The report with what the clone knows: commit, branch, date of the data, speed, changes since the last report.

None of it is a function of what the stage `report` depends on, so it is in no output of the pipeline.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptqflow.core.artifacts import REMEDY, write_text
from ptqflow.core.errors import ArtifactError
from ptqflow.core.git import committed, git
from ptqflow.core.outputs import LOCK, is_current, stages_of
from ptqflow.core.paths import DATASET, HEADLINE, INPUTS, REPORT
from ptqflow.report.clone import Changes, Clone
from ptqflow.report.page import make_page
from ptqflow.report.results import read_benchmark, read_results

_HERE = Path()


def write_current_report(path: Path) -> None:
    """Write the report of the results below the working directory, the root of a DVC project.

    It does not wait for `sensitivity`: before that has run on this network, the page says nothing of layers.

    Raises:
        ArtifactError: a result is missing, damaged, or of an earlier network.
    """
    for stage in ("evaluate", "export"):
        if not is_current(stage):
            raise ArtifactError(f"`{stage}` has not run on the network that lies here: run `dvc repro {stage}`")
    with_layers = is_current("sensitivity")
    results = read_results(with_layers)
    clone = describe_clone(read_benchmark(results.manifest))
    if not with_layers:
        clone = replace(clone, facts={**clone.facts, "Layers": "not measured: run `dvc repro`, then `ptqflow report`"})
    write_text(path, make_page(results, clone))


def describe_clone(benchmark: Any = ()) -> Clone:
    """Return what git and DVC know of the results in the working directory; `benchmark` are the timings of the model.

    Raises:
        ArtifactError: dvc.lock is missing or damaged.
    """
    if not LOCK.exists():
        raise ArtifactError(f"{LOCK} is missing: run this where it lies, in a repository in which `dvc repro` has run")
    lock = stages_of(LOCK.read_text())
    commits = git(_HERE, "log", "--format=%H", "--", str(LOCK)).stdout.split()
    return Clone(_facts(lock, commits), _changes(lock, commits), benchmark)


def _facts(lock: Mapping[str, Any], commits: list[str]) -> dict[str, str]:
    head = git(_HERE, "log", "-1", "--format=%h, %cs, %s")
    if head.returncode:
        return {"Commit": "none: the results are in no git repository, or in one without a commit"}
    changed = git(_HERE, "status", "--porcelain", "--untracked-files=no", ".").stdout
    return {
        "Commit": head.stdout.strip() + ("; with changes that are not committed" if changed else ""),
        "Branch": git(_HERE, "branch", "--show-current").stdout.strip() or "none: HEAD is detached",
        "Data": _date_of_data(lock, commits),
    }


def _date_of_data(lock: Mapping[str, Any], commits: list[str]) -> str:
    """Return since when dvc.lock records the data set that it records now."""
    current = _hash_of_output(lock, "fetch", DATASET)
    first = None
    for commit in commits:
        if _hash_of_output(_stages_at(commit), "fetch", DATASET) != current:
            break
        first = commit
    if first is None:
        return "in no commit yet"
    return "unchanged since " + git(_HERE, "log", "-1", "--format=%cs, commit %h", first).stdout.strip()


def _changes(lock: Mapping[str, Any], commits: list[str]) -> Changes | None:
    """Return what differs from the newest commit that records another report; None where there is none."""
    current = _hash_of_output(lock, "report", REPORT.parent)
    for commit in commits:
        before = _stages_at(commit)
        if _hash_of_output(before, "report", REPORT.parent) not in (None, current):
            rev, about = git(_HERE, "log", "-1", "--format=%h %cs, %s", commit).stdout.strip().split(" ", 1)
            return Changes(
                f"The last report with other content is that of commit {rev} ({about}). `dvc get . {REPORT.parent} "
                f"--rev {rev} -o report-{rev}` brings it if the cache or the remote has it; `ptqflow compare {rev} "
                "HEAD` compares the models image by image.",
                _different(_params(before), _params(lock)),
                sorted(_different(_inputs(before), _inputs(lock))),
                _different(_figures(committed(_HERE, commit, HEADLINE)), _figures(HEADLINE.read_text())),
            )
    return None


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (before.get(key), now.get(key)) for key in {**before, **now}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _stages_at(commit: str) -> dict[str, Any]:
    """Return the stages of the dvc.lock of a commit, none where it has none."""
    lock = committed(_HERE, commit, LOCK)
    return {} if lock is None else stages_of(lock)


def _hash_of_output(stages: Mapping[str, Any], stage: str, path: Path) -> str | None:
    outs = stages.get(stage, {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == str(path)), None)


def _params(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that the stages read, by their dotted keys; hashes of code are inputs."""
    return {
        key: value
        for stage in stages.values()
        for file, section in stage.get("params", {}).items()
        if file == "params.yaml"
        for key, value in _leaves(section)
    }


def _inputs(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hashes of what no stage made: code, and the files of the user that `inputs` links to."""
    made = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
    files = {
        dep["path"]: dep.get("md5")
        for stage in stages.values()
        for dep in stage.get("deps", [])
        if dep["path"] not in made or Path(dep["path"]).is_relative_to(INPUTS)
    }
    code = {
        f"{file}, {key}": value
        for stage in stages.values()
        for file, section in stage.get("params", {}).items()
        if file != "params.yaml"
        for key, value in _leaves(section)
    }
    return files | code


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _figures(text: str | None) -> dict[str, Any]:
    """Return the headline figures of a text of metrics/evaluate.json; none of a revision without the file."""
    try:
        return dict(json.loads(text or "{}"))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{HEADLINE} is no JSON object; {REMEDY}") from error
