"""The recipe for SLURM in docs/sweeps.md, without SLURM."""

import re
import subprocess
from pathlib import Path

import pytest
from repository import ROOT, Repository
from sweeping import make_project

BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/sweeps.md").read_text(), re.MULTILINE | re.DOTALL)
SUBMISSION, CALIB, GRID = BLOCKS


@pytest.mark.parametrize("script", [f"#!/bin/bash\n{SUBMISSION}", CALIB, GRID], ids=["submission", "calib", "grid"])
@pytest.mark.parametrize("checker", [["bash", "-n", "-"], ["shellcheck", "-"]], ids=["bash", "shellcheck"])
def test_the_scripts_are_free_of_mistakes_that_a_checker_finds(script: str, checker: list[str]) -> None:
    checked = subprocess.run(checker, input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def run_task(repository: Repository, script: str, task: int) -> str:
    variables = [f"SLURM_SUBMIT_DIR={repository.path}", f"SLURM_ARRAY_TASK_ID={task}"]
    return repository.run("env", *variables, "bash", "-c", script).output


@pytest.mark.slow
def test_the_array_of_the_grid_finds_what_that_of_calib_made_and_leaves_an_experiment_for_each_task(
    tmp_path: Path,
) -> None:
    repository = make_project(tmp_path / "project")
    repository.run("dvc", "repro", "-q")
    repository.commit("results")

    run_task(repository, CALIB, 2)
    printed = [run_task(repository, GRID, task) for task in (4, 5)]

    assert all("Stage 'calib' is cached - skipping run" in text for text in printed)
    names = repository.run("dvc", "exp", "list", "--name-only").output.split()
    assert sorted(names) == ["array-4", "array-5"]
    for task, method in ((4, "mse"), (5, "minmax")):
        repository.run("dvc", "exp", "apply", f"array-{task}")
        params = repository.read("params.yaml")
        assert re.findall(r"^(?:  batches|    method): (\w+)", params, re.MULTILINE)[:2] == ["20", method]
