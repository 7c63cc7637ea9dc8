"""dvc.yaml lists what the stages import and read: DVC sees nothing else."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from data.samples import image_files, write_folder
from pipeline.imports import PACKAGE, imported_modules
from pipeline.repository import ROOT, STAGES, Repository, outputs_of
from ruamel.yaml import YAML

from ptqflow.inputs import CODE

RECORD_OPENED_FILES = """
import os, sys

log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def record(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(log, os.path.abspath(arguments[0]).encode() + b"\\0")


sys.addaudithook(record)
"""


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_script_and_the_modules_that_it_imports(stage: str) -> None:
    script = ROOT / "stages" / f"{stage}.py"
    imported = {script, *imported_modules(script, ROOT / "src")}
    if ROOT / "src/ptqflow/report/page.py" in imported:  # which reads its templates from beside itself
        imported |= {ROOT / "src/ptqflow/report/page.html", ROOT / "src/ptqflow/report/page.css"}
    listed = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("stages/", "src/"))}
    assert {str(path.relative_to(ROOT)) for path in listed} == {str(path.relative_to(ROOT)) for path in imported}


def test_packages_run_no_code_when_they_are_imported_that_deps_would_miss() -> None:
    # The root package defines `load` for users, which changes nothing where it is not called.
    for package in (ROOT / "src").rglob("__init__.py"):
        statements = ast.parse(package.read_text()).body[1:]  # behind the docstring
        defined = [ast.unparse(statement).partition("\n")[0] for statement in statements]
        is_root = package.parent.name == PACKAGE
        assert [line.partition("(")[0] for line in defined] == (
            ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "def load"] if is_root else []
        ), package


def test_neither_a_stage_nor_the_library_takes_anything_from_the_root_package() -> None:
    for file in (*(ROOT / "stages").glob("*.py"), *(ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module == PACKAGE), file
            assert not (isinstance(node, ast.Import) and PACKAGE in [alias.name for alias in node.names]), file


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_of_what_other_stages_write_a_stage_lists_exactly_what_it_opens(repository: Repository, stage: str) -> None:
    _give_every_input(repository)
    opened = _files_opened_by(repository, stage)

    written = {output for writer in STAGES if writer != stage for output in outputs_of(writer)}
    found = {output for output in written if any(f"{file}/".startswith(f"{output}/") for file in opened)}
    # The user's module is listed for its bytes: it is imported by its name, not opened by way of the link.
    assert found == written & set(STAGES[stage]["deps"]) - {str(CODE)}


def test_every_key_of_params_is_listed_by_a_stage() -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    keys = {f"{section}.{key}" for section, values in params.items() for key in values}
    files = [ROOT / "dvc.yaml", ROOT / "benchmark/dvc.yaml", ROOT / "spread/pipeline.yaml"]
    stages = [stage for file in files for stage in YAML(typ="safe").load(file)["stages"].values()]
    listed = {entry for stage in stages for entry in stage.get("params", [])}
    covered = {key for key in keys if key in listed or key.split(".")[0] in listed}
    assert covered == keys
    assert "data.path" not in STAGES["fetch"]["params"]
    assert {f"data.{key}" for key in params["data"]} - set(STAGES["fetch"]["params"]) == {"data.path"}
    assert {f"model.{key}" for key in params["model"]} - set(STAGES["train"]["params"]) == {"model.weights"}


def test_every_stage_but_inputs_can_be_restored_from_the_run_cache() -> None:
    # DVC does not run-cache a stage with an uncached output, unless it is a metric or a plot, nor one that persists.
    for stage in STAGES.keys() - {"inputs"}:
        assert all(isinstance(out, str) for out in STAGES[stage].get("outs", [])), stage


def test_an_edit_of_any_module_marks_exactly_the_stages_that_import_it(repository: Repository) -> None:
    source = repository.path / "src"
    modules = sorted(source.rglob("*.py"))
    for module in modules:
        module.write_text(module.read_text() + "\n# edited\n")
    status = json.loads(repository.run("dvc", "status", "--json", "dvc.yaml").output)

    for stage in STAGES:
        changed = {file for change in status[stage] if isinstance(change, dict) for file in change["changed deps"]}
        imported = imported_modules(repository.path / "stages" / f"{stage}.py", source)
        assert {file for file in changed if file.endswith(".py")} == {
            str(module.relative_to(repository.path)) for module in imported
        }, stage


def _give_every_input(repository: Repository) -> None:
    """Set what the params leave null to files of the user's, so that each stage reads all that it ever does."""
    outside = repository.path.parent
    write_folder(outside / "photos", image_files(20, 4))
    weights = shutil.copy(repository.path / "models/fp32/weights.safetensors", outside)
    repository.set_params(
        {
            "data": {"name": "image_folder", "path": str(outside / "photos")},
            "model": {"weights": weights},
            "convert": {"bias_correction": True},
        }
    )
    repository.run("env", "PYTHONPATH=src", "python", "stages/inputs.py")


def _files_opened_by(repository: Repository, stage: str) -> set[str]:
    """Run a stage without dvc; return the files below the repository that it opens, as Python's audit events tell."""
    hook = repository.path.parent / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RECORD_OPENED_FILES)
    log = repository.path.parent / "opened"
    repository.run("env", f"PYTHONPATH={hook}:src", f"OPENED={log}", "python", f"stages/{stage}.py")
    opened = [Path(name) for name in log.read_text().split("\0") if name]
    return {str(file.relative_to(repository.path)) for file in opened if file.is_relative_to(repository.path)}
