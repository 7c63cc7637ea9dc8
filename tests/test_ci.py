"""The checks that must hold before a change lands."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METRICS = {
    "fp32": {"top1": 0.98, "size_mb": 44.78},
    "int8_uncalibrated": {"top1": 0.5, "size_mb": 11.31},
    "int8": {"top1": 0.97, "size_mb": 11.31},
    "agreement": 0.99,
}


def compare(found: dict[str, object]) -> "subprocess.CompletedProcess[str]":
    """Compare figures with METRICS as `.ci/run` does."""
    for name, metrics in (("committed.json", METRICS), ("found.json", found)):
        Path(name).write_text(json.dumps(metrics))
    command = [sys.executable, ROOT / ".ci" / "compare_metrics.py", "committed.json", "found.json"]
    return subprocess.run(command, text=True, capture_output=True, check=False)


def with_change(path: str, value: float) -> dict[str, object]:
    """Return METRICS with another value at `path`."""
    changed: dict = copy.deepcopy(METRICS)
    *parents, key = path.split(".")
    section = changed[parents[0]] if parents else changed
    section[key] = value
    return changed


@pytest.mark.parametrize(
    "found",
    [METRICS, with_change("fp32.top1", 0.97), with_change("int8.top1", 0.985), with_change("agreement", 0.98)],
    ids=["equal", "FP32 a point worse", "INT8 better", "agreement a point less"],
)
def test_figures_that_hold_pass_without_a_word(found: dict[str, object]) -> None:
    result = compare(found)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("fp32.top1", 0.95, "fp32 top-1 is 0.95, committed 0.98"),
        ("int8.top1", 0.94, "int8 top-1 is 0.94, committed 0.97"),
        ("int8_uncalibrated.top1", 0.8, "calibration gains less than 20 points over the uncalibrated control"),
        ("agreement", 0.96, "INT8 agrees with FP32 on 0.96 of the images alone"),
        ("int8.size_mb", 44.78, "the INT8 model has 44.78 MB"),
    ],
)
def test_a_figure_that_does_not_hold_fails_and_is_told(path: str, value: float, told: str) -> None:
    result = compare(with_change(path, value))
    assert (result.returncode, result.stderr) == (1, f"{told}\n")


def test_several_problems_are_told_together() -> None:
    found = with_change("agreement", 0.5) | {"fp32": {"top1": 0.1, "size_mb": 44.78}}
    assert compare(found).stderr == (
        "fp32 top-1 is 0.1, committed 0.98; INT8 agrees with FP32 on 0.5 of the images alone\n"
    )


def test_ci_runs_the_everyday_tests_and_the_slow_ones() -> None:
    targets = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    command = ["make", "--dry-run", "--assume-old=.venv/installed", "-C", ROOT, *targets]
    planned = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    assert sorted(re.findall(r"^pytest .*-m (\"[^\"]+\"|\w+)", planned, re.MULTILINE)) == [
        '"not slow and not browser"',
        '"slow or browser"',
    ]


def test_git_ignores_an_environment_that_is_a_link() -> None:
    Path("elsewhere").mkdir()
    Path(".venv").symlink_to("elsewhere")
    Path(".gitignore").write_text((ROOT / ".gitignore").read_text())
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert subprocess.run(["git", "check-ignore", ".venv"], capture_output=True, check=False).returncode == 0
