"""What a clone knows of a run that no stage may read, since its outputs depend on what it lists alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptqflow.core.figures import BenchmarkRow
from ptqflow.report.components import Table

_MEASURE = "`make benchmark` (after `ptqflow init`: `ptqflow stage benchmark`)"
ELSEWHERE = (
    "This page has equal bytes for equal inputs. `ptqflow report` writes it with what they do not determine: commit, "
    f"branch, date of the data, what changed since the last report, and the speed that {_MEASURE} measures."
)
UNMEASURED = f"The speed of this model was not measured: run {_MEASURE}, then `ptqflow report` again."


@dataclass(frozen=True)
class Changes:
    """What differs from the last report, each before and now."""

    since: str
    """That report, in words."""
    params: Mapping[str, tuple[object, object]]
    inputs: Sequence[str]
    """Files and folders with other content."""
    figures: Mapping[str, tuple[object, object]]
    """Of metrics/."""


@dataclass(frozen=True)
class Clone:
    """The repository in which the results lie."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Commit, branch and date of the data."""
    changes: Changes | None = None
    """None where there is no earlier report."""
    benchmark: Sequence[BenchmarkRow] = ()
    """Timings of this model; empty where it was not timed."""


def changes(clone: Clone) -> dict[str, Any]:
    """Return what changed since the last report."""
    found = clone.changes
    if found is None:
        return {"since": "", "changed_keys": None}
    rows = [[key, *map(_text, pair)] for changed in (found.figures, found.params) for key, pair in changed.items()]
    other = f" Other content: {', '.join(found.inputs)}." if found.inputs else ""
    equal = "" if rows else " All figures and params are equal."
    table = Table(["figure or param", "before", "now"], rows, words=True) if rows else None
    return {"since": f"{found.since}{equal}{other}", "changed_keys": table}


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
