"""The checks that must hold before a change lands."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from evaluation import evaluation_figures
from ruamel.yaml import YAML

import ptqflow

ROOT = Path(__file__).parents[1]
METRICS = evaluation_figures().headline(fp32_layers=1, calib_images=320).model_dump()


def compare(found: dict[str, object]) -> "subprocess.CompletedProcess[str]":
    """Compare figures with METRICS as `.ci/run` does."""
    for name, metrics in (("committed.json", METRICS), ("found.json", found)):
        Path(name).write_text(json.dumps(metrics))
    return run_comparison()


def run_comparison() -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / ".ci" / "compare_metrics.py", "committed.json", "found.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, text=True, capture_output=True, check=False, env=environment)


@pytest.mark.parametrize(
    "found",
    [METRICS, METRICS | {"fp32_top1": 0.97}, METRICS | {"int8_top1": 0.985}, METRICS | {"agreement": 0.98}],
    ids=["equal", "FP32 a point worse", "INT8 better", "agreement a point less"],
)
def test_figures_within_the_tolerance_pass_silently(found: dict[str, object]) -> None:
    result = compare(found)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        ("fp32_top1", 0.95, "fp32 top-1 is 0.95, committed 0.98"),
        ("int8_top1", 0.94, "int8 top-1 is 0.94, committed 0.97"),
        ("uncalibrated_top1", 0.8, "calibration gains less than 20 points over the uncalibrated control"),
        ("agreement", 0.96, "INT8 agrees with FP32 on only 0.96 of the images"),
        ("int8_mb", 44.78, "the INT8 model has 44.78 MB"),
    ],
)
def test_a_figure_out_of_tolerance_fails_and_is_reported(figure: str, value: float, message: str) -> None:
    result = compare(METRICS | {figure: value})
    assert (result.returncode, result.stderr) == (1, f"{message}\n")


def test_several_problems_are_reported_together() -> None:
    assert compare(METRICS | {"agreement": 0.5, "fp32_top1": 0.1}).stderr == (
        "fp32 top-1 is 0.1, committed 0.98; INT8 agrees with FP32 on only 0.5 of the images\n"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n", "found.json holds conflict markers of git"),
        ("{", "found.json: the file: Invalid JSON"),
        ("{}", "found.json: fp32_top1: Field required"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(content: str, problem: str) -> None:
    Path("committed.json").write_text(json.dumps(METRICS))
    Path("found.json").write_text(content)
    result = run_comparison()
    assert result.returncode == 1
    assert result.stderr.startswith(problem)
    assert result.stderr.count("\n") == 1


def commands_of(*arguments: str) -> list[str]:
    """Return the commands that make would run."""
    command = ["make", "--dry-run", "--assume-old=.venv/installed", "-C", str(ROOT), *arguments]
    outer = {"MAKEFLAGS", "MAKEOVERRIDES", "COVERAGE", "TESTS"}  # of the make that runs this test
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(command, text=True, capture_output=True, check=True, env=environment).stdout.splitlines()


def test_ci_runs_lint_types_the_everyday_tests_the_slow_ones_and_some_faults() -> None:
    targets = re.findall(r"^make ([\w =-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    planned = [line for target in targets for line in commands_of(*target.split())]
    assert set(planned) >= {*commands_of("lint"), *commands_of("types")}
    tests = [line for line in planned if line.startswith("pytest")]
    assert [re.findall(r'-m "([^"]+)"', line) for line in tests] == [
        ["not slow and not browser and not faults"],
        ["(slow or browser) and not zoo and not cluster and not extra"],
        ["faults"],
    ]


def test_coverage_is_measured_only_on_request() -> None:
    assert not any("--cov" in line.split() for line in commands_of("test", "test-slow"))
    assert any("--cov" in line.split() for line in commands_of("test", "COVERAGE=1"))


def test_check_is_lint_types_and_the_everyday_tests() -> None:
    assert commands_of("check")[1:-1] == [
        *commands_of("lint")[1:-1],
        *commands_of("types")[1:-1],
        *commands_of("test")[1:-1],
    ]


def test_pre_commit_hooks_are_the_tools_of_lint_and_format() -> None:
    (local,) = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"]
    lint = "\n".join(commands_of("lint"))
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system", "nothing is downloaded"
        assert re.sub(r" --.*", "", hook["entry"]) in lint


def test_the_types_of_the_package_are_published() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ptqflow"]
    assert all(any((ROOT / "src" / "ptqflow").glob(file)) for file in packaged)
    assert "py.typed" in packaged


@pytest.mark.parametrize(
    "file", ["dvc.lock", "pipelines/benchmark/dvc.lock", "requirements.lock", "metrics/evaluate.json"]
)
def test_generated_files_are_marked_as_such(file: str) -> None:
    command = ["git", "check-attr", "linguist-generated", file]
    found = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert found == f"{file}: linguist-generated: set\n"


def test_git_ignores_an_environment_that_is_a_link() -> None:
    Path("elsewhere").mkdir()
    Path(".venv").symlink_to("elsewhere")
    Path(".gitignore").write_text((ROOT / ".gitignore").read_text())
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert subprocess.run(["git", "check-ignore", ".venv"], capture_output=True, check=False).returncode == 0


def test_the_citation_has_the_version() -> None:
    cited = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert cited["version"] == ptqflow.__version__
