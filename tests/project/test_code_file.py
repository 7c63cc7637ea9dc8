"""The code file of a pipeline: what changes it, and what a stage does whose code is another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import SOURCE
from repository import STAGES

from ptqflow.core.errors import ArtifactError
from ptqflow.project.code_file import installed_code, stage_script, write_code
from ptqflow.project.template import CODE_FILE


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library, to be edited, with copies of the template's files as a wheel has them."""
    return Path(shutil.copytree(SOURCE, tmp_path / "lib/ptqflow", ignore=shutil.ignore_patterns("__pycache__")))


def code_of(library: Path) -> dict[str, str]:
    code = "import json; from ptqflow.project.code_file import installed_code as c; print(json.dumps(c()))"
    command = [sys.executable, "-B", "-c", code]
    environment = {"PYTHONPATH": str(library.parent)}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    loaded: dict[str, str] = json.loads(result.stdout)
    return loaded


def changed_by_an_edit_of(library: Path, file: str) -> set[str]:
    before = installed_code()
    with (library / file).open("a") as lines:
        lines.write("\n# edited\n")
    after = code_of(library)
    return {name for name in before if before[name] != after[name]}


def test_the_code_file_has_each_stage_and_is_the_same_wherever_the_library_lies(library: Path) -> None:
    assert set(installed_code()) == {"version", "pipeline", *(stage.partition("@")[0] for stage in STAGES)}
    assert code_of(library) == installed_code()


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("train/step.py", {"train"}),
        ("calib/histogram.py", {"dry_run", "calib", "control", "convert", "sensitivity"}),
        ("predict/network.py", {"predict"}),
        ("report/page.py", {"report"}),
        ("project/files/stages/calib.py", {"calib"}),
        ("runtime/version.py", {"dry_run", "export", "report"}),
        ("cli.py", set()),
    ],
)
def test_an_edit_changes_the_hash_of_the_stages_that_run_it_and_no_other(
    library: Path, file: str, stages: set[str]
) -> None:
    assert changed_by_an_edit_of(library, file) == stages


def test_the_script_of_a_stage_is_returned_where_its_code_is_that_of_the_file() -> None:
    write_code(Path(), installed_code())
    assert stage_script("calib").read_text().startswith('"""Collect activation statistics')


def test_a_stage_of_other_code_is_one_line_that_names_upgrade_and_the_others_run() -> None:
    write_code(Path(), installed_code() | {"version": "0.0.9", "calib": "0" * 64})
    with pytest.raises(ArtifactError, match=r"of ptqflow 0\.0\.9, and the code of `calib` .* run `ptqflow upgrade`"):
        stage_script("calib")
    assert stage_script("train").name == "train.py"


def test_another_version_with_equal_code_runs() -> None:
    write_code(Path(), installed_code() | {"version": "0.0.9"})
    assert stage_script("calib").name == "calib.py"


@pytest.mark.parametrize("stage", ["nothing", "../calib", "spread_draw", ""])
def test_an_unknown_stage_is_refused_with_the_names_of_all(stage: str) -> None:
    write_code(Path(), installed_code())
    with pytest.raises(ArtifactError, match=r"there is no stage .* the stages are inputs, fetch"):
        stage_script(stage)


def test_without_a_code_file_a_stage_does_not_run() -> None:
    with pytest.raises(ArtifactError, match=r"there is no ptqflow\.lock\.json"):
        stage_script("calib")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"calib": 1}', "<<<<<<< HEAD\n{}\n", b"\xff\xfe"])
def test_a_damaged_code_file_is_one_line_with_a_remedy(text: str | bytes) -> None:
    CODE_FILE.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ArtifactError, match="is damaged: restore it"):
        stage_script("calib")


def test_the_benchmark_is_of_no_pipeline_so_there_is_no_code_to_compare(tmp_path: Path) -> None:
    script = stage_script("benchmark", tmp_path)
    assert "metrics/plots/benchmark.csv" in script.read_text()
