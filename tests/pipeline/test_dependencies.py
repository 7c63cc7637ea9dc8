"""dvc.yaml lists what the stages import and read: DVC sees nothing else. CONTRIBUTING.md says what may be imported."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from imports import PACKAGE, SOURCE, closure, imported_packages, imports_torch_ao, packages
from repository import PIPELINES, ROOT, STAGES, Repository, outputs_of, stages_of
from ruamel.yaml import YAML
from samples import image_files, write_folder

from ptqflow.core.inputs import CODE, PREPROCESSING

STAGE_FILES = [(file, stage) for file in PIPELINES for stage in stages_of(file)]

RECORD_OPENED_FILES = """
import os, sys

log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def record(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(log, os.path.abspath(arguments[0]).encode() + b"\\0")


sys.addaudithook(record)
"""


def documented_imports() -> dict[str, set[str]]:
    """Return what each package may import, from the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|((?: `\w+`)*) \|$", text, re.MULTILINE)
    return {package: set(re.findall(r"\w+", imports)) for package, imports in rows}


TABLE = documented_imports()


def test_the_table_has_every_package() -> None:
    assert sorted(TABLE) == packages()


@pytest.mark.parametrize("package", packages())
def test_a_package_imports_what_the_table_says_and_nothing_else(package: str) -> None:
    assert imported_packages(*(SOURCE / package).rglob("*.py")) - {package} == TABLE[package]


def test_no_package_is_imported_by_one_that_it_imports() -> None:
    for package in TABLE:
        assert package not in closure(TABLE[package]), package


def test_torch_ao_is_imported_by_the_package_fx_alone() -> None:
    users = {file.relative_to(SOURCE).parts[0] for file in SOURCE.rglob("*.py") if imports_torch_ao(file)}
    assert users == {"fx"}


@pytest.mark.parametrize(("file", "stage"), STAGE_FILES, ids=[stage for _, stage in STAGE_FILES])
def test_deps_are_the_script_and_the_packages_that_it_imports(file: str, stage: str) -> None:
    listed = [dep for dep in stages_of(file)[stage]["deps"] if dep.startswith(("stages/", "src/"))]
    script = f"stages/{stage.partition('@')[0]}.py"
    packages = closure(imported_packages(ROOT / script))
    if stage == "benchmark":  # the models' files stand for the code that made them
        packages = {"benchmark", "runtime"}
    assert listed == [script, *sorted(f"src/ptqflow/{package}" for package in packages)]


def test_packages_run_no_code_when_they_are_imported_that_deps_would_miss() -> None:
    # The root package defines `load` and `quantize` for users, which change nothing where they are not called.
    for package in (ROOT / "src").rglob("__init__.py"):
        statements = ast.parse(package.read_text()).body[1:]  # after the docstring
        defined = [ast.unparse(statement).partition("\n")[0] for statement in statements]
        is_root = package.parent.name == PACKAGE
        assert [line.partition("(")[0] for line in defined] == (
            [
                "from typing import TYPE_CHECKING",
                "from ptqflow.runtime.version import VERSION",
                "if TYPE_CHECKING:",
                "__version__ = VERSION",
                "def load",
                "def quantize",
            ]
            if is_root
            else []
        ), package


def test_no_stage_and_no_package_imports_a_module_at_the_root() -> None:
    modules = {file.stem for file in SOURCE.glob("*.py")}
    for file in (*(ROOT / "stages").glob("*.py"), *SOURCE.glob("*/**/*.py")):
        assert not imported_packages(file) & modules, file
        assert f"import {PACKAGE}\n" not in file.read_text(), file


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_of_what_other_stages_write_a_stage_lists_exactly_what_it_opens(repository: Repository, stage: str) -> None:
    _set_every_input(repository)
    opened = _files_opened_by(repository, stage)

    written = {output for writer in STAGES if writer != stage for output in outputs_of(writer)}
    found = {output for output in written if any(f"{file}/".startswith(f"{output}/") for file in opened)}
    # The user's module is listed for its bytes: it is imported by its name, not opened by way of the link.
    assert found == written & set(STAGES[stage]["deps"]) - {str(CODE)}


def test_every_key_of_params_is_listed_by_a_stage_but_those_that_no_result_depends_on() -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    keys = {f"{section}.{key}" for section, values in params.items() for key in values}
    stages = [stage for file in PIPELINES for stage in stages_of(file).values()]
    listed = {entry for stage in stages for entry in stage.get("params", [])}
    covered = {key for key in keys if key in listed or key.split(".")[0] in listed}
    assert keys - covered == {f"run.{key}" for key in params["run"]}
    assert "data.path" not in STAGES["fetch"]["params"]
    resolved = {"image_size", "resize", "crop", "interpolation", "antialias", "channels", "channel_order"}
    assert {key for key in params["data"] if f"data.{key}" not in STAGES["fetch"]["params"]} == {"path", *resolved}
    assert str(PREPROCESSING) in STAGES["fetch"]["deps"]
    assert {"model", "train"} <= {*STAGES["dry_run"]["params"], *STAGES["train"]["params"]}


def test_every_stage_but_inputs_can_be_restored_from_the_run_cache() -> None:
    # DVC does not run-cache a stage with an uncached output, unless it is a metric or a plot, nor one that persists.
    for stage in STAGES.keys() - {"inputs"}:
        assert all(isinstance(out, str) for out in STAGES[stage].get("outs", [])), stage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "marked"),
    [
        ("fetch", {"inputs", "fetch"}),
        ("train", {"train"}),
        ("dry_run", {"dry_run"}),
        ("calib", {"dry_run", "calib", "control", "convert", "sensitivity"}),
        ("convert", {"dry_run", "control", "convert", "sensitivity"}),
        ("predict", {"predict@fp32", "predict@int8", "predict@int8_uncalibrated"}),
        ("evaluate", {"evaluate", "report"}),
        ("report", {"report"}),
        ("benchmark", set()),
        ("spread", set()),
        ("inference", set()),
    ],
)
def test_an_edit_in_a_package_marks_the_stages_that_import_it_and_no_other(
    repository: Repository, package: str, marked: set[str]
) -> None:
    file = max((repository.path / "src/ptqflow" / package).iterdir())
    file.write_bytes(file.read_bytes() + b"\n")
    assert set(json.loads(repository.run("dvc", "status", "--json", "dvc.yaml").output)) == marked, file


def _set_every_input(repository: Repository) -> None:
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


def _script(stage: str) -> list[str]:
    name, _, item = stage.partition("@")
    return [f"stages/{name}.py", *filter(None, [item])]


def _files_opened_by(repository: Repository, stage: str) -> set[str]:
    """Run a stage without dvc; return the files below the repository that it opens, as Python's audit events report."""
    hook = repository.path.parent / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RECORD_OPENED_FILES)
    log = repository.path.parent / "opened"
    repository.run("env", f"PYTHONPATH={hook}:src", f"OPENED={log}", "python", *_script(stage))
    opened = [Path(name) for name in log.read_text().split("\0") if name]
    return {str(file.relative_to(repository.path)) for file in opened if file.is_relative_to(repository.path)}
