"""The documentation: every setting, figure and exported file is in it, and what it names exists."""

import csv
import importlib
import json
import re
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from params_table import SECTIONS, with_table
from repository import PIPELINES, ROOT, stages_of
from ruamel.yaml import YAML

from ptqflow.cli import run
from ptqflow.core import figures
from ptqflow.core.artifacts import Card
from ptqflow.core.params import read_params

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURES, EXPORT, SPEED, QUANTIZE, USE, SWEEPS, YOURS = (
    ROOT / "docs" / f"{name}.md"
    for name in ("figures", "export", "speed", "quantize", "use", "sweeps", "your-repository")
)
SCHEMAS = [kind for kind in vars(figures).values() if isinstance(kind, type) and kind.__module__ == figures.__name__]
README = (ROOT / "README.md").read_text()
PARAMS: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "params.yaml")


def quoted(*pages: Path) -> set[str]:
    """Return what these pages have in backticks, and the names in it."""
    spans = {span for page in pages for span in re.findall(r"`([^`\n]+)`", page.read_text())}
    return spans | {name for span in spans for name in span.split(".")}


def keys_of(section: str, values: dict[str, Any]) -> set[str]:
    """Return a section of the params and its keys, with dots."""
    keys = {section}
    for key, value in values.items():
        keys |= keys_of(f"{section}.{key}", value) if isinstance(value, dict) else {f"{section}.{key}"}
    return keys


KEYS = set().union(*(keys_of(section, values) for section, values in PARAMS.items()))


def test_the_params_table_is_that_of_the_models_and_of_params_yaml() -> None:
    assert with_table(README, PARAMS) == README, "run `make docs`"


def test_the_params_table_has_every_key_once() -> None:
    listed = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", README, re.MULTILINE)
    assert sorted(listed) == sorted(key for key in KEYS if not any(other.startswith(f"{key}.") for other in KEYS))


def test_another_default_changes_the_params_table() -> None:
    assert with_table(README, PARAMS | {"calib": PARAMS["calib"] | {"batches": 11}}) != README


def test_every_section_of_params_yaml_is_valid_for_its_model() -> None:
    assert list(SECTIONS) == list(PARAMS)
    for section, model in SECTIONS.items():
        read_params(section, model, ROOT / "params.yaml")


def test_comments_of_params_yaml_list_the_choices_of_the_models() -> None:
    expected: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for model in SECTIONS.values():
        schema = model.model_json_schema()
        for properties in (schema, *schema.get("$defs", {}).values()):
            for key, field in properties["properties"].items():
                for choice in (field, *field.get("anyOf", [])):
                    if "enum" in choice:
                        names = (re.sub(r"_\d+$", "_N", json.dumps(name).strip('"')) for name in choice["enum"])
                        expected[key].add(tuple(dict.fromkeys(names)))
    text = (ROOT / "params.yaml").read_text()
    commented: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for key, choices in re.findall(r"^ +(\w+):[^#\n]*# (\w+(?: \| \w+)+)", text, re.MULTILINE):
        commented[key].add(tuple(choices.split(" | ")))
    assert commented == dict(expected) | {  # booleans have no enum
        key: {("true", "false")} for key in commented.keys() - expected.keys()
    }


def test_every_file_of_an_exported_model_is_described(pristine: Path) -> None:
    assert {file.name for file in pristine.iterdir()} <= quoted(EXPORT)


def test_every_metrics_file_and_plot_is_described() -> None:
    stages = [stage for file in PIPELINES for stage in stages_of(file).values()]
    entries = [entry for stage in stages for kind in ("metrics", "plots") for entry in stage.get(kind, [])]
    assert {next(iter(entry)) for entry in entries} <= quoted(FIGURES)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_figure_of_a_schema_is_defined(schema: type[Card]) -> None:
    assert {field.alias or name for name, field in schema.model_fields.items()} <= quoted(FIGURES, SPEED)


@pytest.mark.parametrize("file", sorted((ROOT / "metrics" / "plots").glob("*.csv")), ids=lambda file: file.stem)
def test_every_column_of_the_committed_plots_is_described(file: Path) -> None:
    with file.open() as lines:
        assert set(next(csv.reader(lines))) <= quoted(FIGURES)


def help_of(*arguments: str) -> str:
    """Return what `ptqflow` prints with these arguments and --help."""
    printed = StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        run([*arguments, "--help"])
    return printed.getvalue()


COMMANDS = re.findall(r"^    (\w+) ", help_of().partition("commands:")[2], re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_options_are_described(command: str) -> None:
    text = "".join(page.read_text() for page in (ROOT / "README.md", QUANTIZE, USE, FIGURES, SWEEPS, YOURS))
    assert f"ptqflow {command} " in text
    options = set(re.findall(r"^  (?:-h, )?(-[\w-]+)", help_of(command), re.MULTILINE)) - {"--help"}
    assert {option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text) if "://" not in link}
    assert {link for link in links if not (page.parent / link).exists()} == set()
    named = set(
        re.findall(r"(?<![\w/.])(?:tests|stages|benchmarks|docs|src|pipelines|\.ci)/[\w./-]+\.(?:py|md|yaml)", text)
    )
    assert {file for file in named if not (ROOT / file).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_params_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"-S [\"']?([a-z_]+(?:\.[a-z_0-9]+)+)=", text))
    sections = "|".join(SECTIONS)
    named |= set(re.findall(rf"`((?:{sections})(?:\.[a-z_0-9]+)+)[`=:]", text)) - {"model.json"}
    of_ranges_script = {key.removeprefix("convert.") for key in KEYS}  # benchmarks/ranges.py sets keys of `convert`
    assert named <= KEYS | of_ranges_script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_imports_from_ptqflow_exists(page: Path) -> None:
    for module, names in re.findall(r"^from (ptqflow[\w.]*) import ([\w, ]+)$", page.read_text(), re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_every_test_that_a_claim_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/strangers.md").read_text()))
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()
