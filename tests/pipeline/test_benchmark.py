"""The benchmark is a pipeline of its own, on which nothing depends."""

from pipeline.imports import imported_modules
from pipeline.repository import ROOT
from ruamel.yaml import YAML

STAGE = YAML(typ="safe").load(ROOT / "benchmark" / "dvc.yaml")["stages"]["benchmark"]


def test_deps_are_the_script_and_the_modules_that_it_and_its_processes_import() -> None:
    script = ROOT / "stages" / "benchmark.py"
    imported = {script, *imported_modules(script, ROOT / "src")}
    listed = {ROOT / dep for dep in STAGE["deps"] if dep.endswith(".py")}
    assert listed == imported


def test_nothing_depends_on_timings() -> None:
    files = [ROOT / "dvc.yaml", *ROOT.glob("*/dvc.yaml")]
    stages = [stage for file in files for stage in YAML(typ="safe").load(file)["stages"].values()]
    assert not [dep for stage in stages for dep in stage["deps"] if "benchmark.json" in dep]
