"""The pipeline of `init` compared with ptqflow's own dvc.yaml, from which it is made."""

import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from ruamel.yaml import YAML

from ptqflow.project.template import FILES, packages_of_stages, pipeline, workflow

OWN: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")
MADE: dict[str, Any] = YAML(typ="safe").load(StringIO(pipeline()))


def body(pipeline: dict[str, Any], stage: str) -> dict[str, Any]:
    entry: dict[str, Any] = pipeline["stages"][stage]
    body: dict[str, Any] = entry.get("do", entry)
    return body


def is_code(dep: str) -> bool:
    return dep.startswith(("stages/", "src/"))


@pytest.mark.parametrize("stage", OWN["stages"])
def test_a_stage_is_that_of_the_own_pipeline_but_for_its_code(stage: str) -> None:
    own, made = body(OWN, stage), body(MADE, stage)
    assert made.pop("deps", []) == [dep for dep in own.pop("deps") if not is_code(dep)]
    assert made.pop("params") == [*own.pop("params", []), {"ptqflow.lock.json": [stage]}]
    command = own.pop("cmd").replace(f"exec env PYTHONPATH=src python stages/{stage}.py", f"exec ptqflow stage {stage}")
    assert made.pop("cmd") == command
    assert made == own


def test_all_else_of_the_own_pipeline_is_unchanged() -> None:
    assert list(MADE) == list(OWN)
    assert list(MADE["stages"]) == list(OWN["stages"])
    assert {key: value for key, value in MADE.items() if key != "stages"} == {
        key: value for key, value in OWN.items() if key != "stages"
    }


def test_no_line_names_sources_of_ptqflow() -> None:
    assert "src/" not in pipeline()
    assert "stages/" not in pipeline()
    assert "PYTHONPATH" not in pipeline()


def test_the_packages_of_a_stage_are_those_of_its_deps() -> None:
    for stage, packages in packages_of_stages().items():
        listed = [dep for dep in body(YAML(typ="safe").load(ROOT / "dvc.yaml"), stage)["deps"] if is_code(dep)]
        assert [f"stages/{stage}.py", *(f"src/ptqflow/{package}" for package in packages)] == listed


def test_every_file_of_the_template_is_one_of_the_repository_and_no_copy() -> None:
    for file in FILES.iterdir():
        assert file.is_symlink(), file
        assert file.resolve().is_relative_to(ROOT)
        assert not file.resolve().is_relative_to(FILES)


def test_the_workflow_installs_the_version_of_the_code_file_and_is_otherwise_the_own_one() -> None:
    own = (ROOT / ".github/workflows/ptqflow.yaml").read_text().splitlines()
    made = workflow().splitlines()
    differing = [line for line, other in zip(made, own, strict=True) if line != other]
    assert len(differing) == 1
    assert "ptqflow[pipeline]==" in differing[0]


@pytest.mark.parametrize("made", [True, False], ids=["of init", "own"])
def test_the_workflow_is_valid_for_the_schema_of_github(made: bool) -> None:
    text = workflow() if made else (ROOT / ".github/workflows/ptqflow.yaml").read_text()
    assert check(text).returncode == 0, check(text).stdout


def test_the_schema_refuses_a_misspelt_key_of_the_workflow() -> None:
    result = check(workflow().replace("runs-on:", "run-on:"))
    assert result.returncode == 1
    assert "run-on" in result.stdout


def check(text: str) -> "subprocess.CompletedProcess[str]":
    Path("workflow.yaml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", "workflow.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
