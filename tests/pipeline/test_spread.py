"""The spread over calibration draws with real dvc: on demand alone, and each draw and size cached."""

import csv
import re

import pytest
from repository import Repository


def ran(repository: Repository) -> list[str]:
    output = repository.run("make", "--old-file=.venv/installed", "spread").output
    return re.findall(r"^Running stage 'pipelines/spread/dvc\.yaml:([\w@-]+)'", output, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.extra
def test_every_draw_and_size_runs_once_on_demand_and_only_what_is_new_runs_again(repository: Repository) -> None:
    repository.set_params({"calib_spread": {"seeds": [0, 1], "batches": [1, 2]}})
    assert repository.run("dvc", "repro").ran == []
    draws = ["spread_draw@0", "spread_draw@1"]
    scores = ["spread_score@0-1", "spread_score@0-2", "spread_score@1-1", "spread_score@1-2"]

    assert sorted(ran(repository)) == ["calib_spread", *draws, *scores]
    rows = list(csv.DictReader(repository.read("metrics/plots/calib_spread.csv").splitlines()))
    assert [row["images"] for row in rows] == ["8", "16"]
    assert all(0 <= float(row["min"]) <= float(row["mean"]) <= float(row["max"]) <= 1 for row in rows)
    assert ran(repository) == []

    repository.set_params({"convert": {"head": "int8"}})
    assert sorted(name for name in ran(repository) if name != "calib_spread") == scores
    repository.set_params({"convert": {"head": "auto"}})
    assert ran(repository) == []

    repository.set_params({"calib_spread": {"batches": [1, 2, 3]}})
    assert sorted(ran(repository)) == ["calib_spread", *draws, "spread_score@0-3", "spread_score@1-3"]

    repository.set_params({"calib_spread": {"seeds": [0, 1, 2]}})
    new = ["spread_draw@2", "spread_score@2-1", "spread_score@2-2", "spread_score@2-3"]
    assert sorted(ran(repository)) == ["calib_spread", *new]
