"""The documentation: every setting, figure and exported file is in it, and what it names exists."""

import ast
import csv
import importlib
import json
import re
import tomllib
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from imports import SOURCE, imports_torch_ao
from params_table import SECTIONS, with_table
from repository import PIPELINES, ROOT, stages_of
from ruamel.yaml import YAML

from ptqflow.cli import help_texts, run
from ptqflow.core import figures
from ptqflow.core.artifacts import Card
from ptqflow.core.params import read_params
from ptqflow.runtime.runtimes import RUNTIMES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIGURES, EXPORT, SPEED, PIPELINE, FX = (
    ROOT / "docs" / f"{name}.md" for name in ("figures", "export", "speed", "pipeline", "fx")
)
SCHEMAS = [kind for kind in vars(figures).values() if isinstance(kind, type) and kind.__module__ == figures.__name__]
TABLE = (ROOT / "docs" / "params.md").read_text()
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


def written(kind: str) -> list[str]:
    """Return the files that the pipelines declare as `metrics` or `plots`."""
    stages = [stage for file in PIPELINES for stage in stages_of(file).values()]
    return [next(iter(entry)) for stage in stages for entry in stage.get(kind, [])]


METRICS = written("metrics")
KEYS = set().union(*(keys_of(section, values) for section, values in PARAMS.items()))


def test_the_params_table_is_that_of_the_models_and_of_params_yaml() -> None:
    assert with_table(TABLE, PARAMS) == TABLE, "run `make docs`"


def test_the_params_table_has_every_key_once() -> None:
    listed = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", TABLE, re.MULTILINE)
    assert sorted(listed) == sorted(key for key in KEYS if not any(other.startswith(f"{key}.") for other in KEYS))


def test_another_default_changes_the_params_table() -> None:
    assert with_table(TABLE, PARAMS | {"calib": PARAMS["calib"] | {"batches": 11}}) != TABLE


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
    assert {*METRICS, *written("plots")} <= quoted(FIGURES)


@pytest.mark.parametrize("file", [name for name in METRICS if (ROOT / name).exists()])
def test_every_key_of_the_committed_metrics_is_defined(file: str) -> None:
    runtimes = set(RUNTIMES) | {"torch_eager"}  # keys of the speed-ups, rows of the table in speed.md
    assert names_in(json.loads((ROOT / file).read_text())) <= quoted(FIGURES) | (quoted(SPEED) & runtimes)


def names_in(figures: dict[str, Any]) -> set[str]:
    """Return the keys of figures at any depth."""
    nested = (names_in(value) for value in figures.values() if isinstance(value, dict))
    return set(figures).union(*nested)


def test_every_stage_is_described() -> None:
    stages = {re.sub("@.*", "@…", stage) for stage in stages_of("dvc.yaml")}
    assert stages == set(re.findall(r"^\| `([\w@…]+)` \|", PIPELINE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_figure_of_a_schema_is_defined(schema: type[Card]) -> None:
    assert {field.alias or name for name, field in schema.model_fields.items()} <= quoted(FIGURES, SPEED)


@pytest.mark.parametrize("file", sorted((ROOT / "metrics" / "plots").glob("*.csv")), ids=lambda file: file.stem)
def test_every_column_of_the_committed_plots_is_described(file: Path) -> None:
    with file.open() as lines:
        assert set(next(csv.reader(lines))) <= quoted(FIGURES)


COMMANDS = {name: text for name, text in help_texts().items() if name}
TEXT = "".join(page.read_text() for page in PAGES)


def options_of(help_text: str) -> set[str]:
    """Return the options that a help text lists, in all their forms."""
    listed = re.findall(r"^  (-.*?)(?:  |$)", help_text, re.MULTILINE)
    return {option for line in listed for option in re.findall(r"(?<!\w)--?[a-zA-Z][\w-]*", line)} - {"-h", "--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_options_are_described_on_a_page(command: str) -> None:
    assert re.search(rf"ptqflow {command}\b", TEXT)
    options = options_of(COMMANDS[command])
    assert {option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", TEXT)} == set()


def test_commands_and_options_are_those_that_the_help_prints() -> None:
    printed = StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        run(["compare", "--help"])
    assert printed.getvalue() == COMMANDS["compare"]
    assert options_of(printed.getvalue()) == {"--json", "--md", "--max-drop", "--significant"}
    assert len(COMMANDS) > 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    blocks = "".join(re.findall(r"^```(?:bash|)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^(?:.*&& )?ptqflow ([a-z]+)", blocks, re.MULTILINE))
    assert named <= COMMANDS.keys()


def test_every_target_of_the_makefile_is_described_in_it_and_on_a_page() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (declared,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    targets = set(declared.split())
    assert targets == set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    undocumented = {target for target in targets if not re.search(rf"make {target}(?![\w-])", TEXT)}
    assert undocumented == set()
    named = set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", TEXT, re.MULTILINE))
    assert named <= targets


def test_every_extra_that_a_page_installs_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lists = re.findall(r"pip install[^`\n]*?\[([\w,]+)\]", TEXT)
    assert lists
    assert {extra for names in lists for extra in names.split(",")} <= extras.keys()


def test_the_page_about_fx_lists_the_modules_that_import_torch_ao_and_the_pins() -> None:
    page = FX.read_text()
    listed = re.findall(r"`(fx/\w+\.py)`", page)
    importing = (file for file in SOURCE.rglob("*.py") if imports_torch_ao(file))
    assert sorted(listed) == sorted(str(file.relative_to(SOURCE)) for file in importing)
    pipeline = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["pipeline"]
    assert {pin for pin in pipeline if re.match("torch(vision)?>", pin)} <= quoted(FX)


def test_every_message_that_troubleshooting_quotes_is_one_of_ours() -> None:
    rows = (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
    quoted_messages = [message for row in rows for message in re.findall(r"^\| `([^`]* [^`]*…[^`]*)`", row)]
    assert len(quoted_messages) > 15
    written_in = [texts_of(file) for file in SOURCE.rglob("*.py")]
    for message in quoted_messages:
        pieces = [piece.strip() for piece in message.split("…")]
        assert any(all(piece in texts for piece in pieces) for texts in written_in), message


def texts_of(file: Path) -> str:
    """Return all that a file of Python has in quotation marks."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


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
