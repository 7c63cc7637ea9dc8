"""Write the table of docs/params.md that lists every key of params.yaml, from the models of its sections.

The docstring of a field is what the table says of the key; the default is that of params.yaml. With `--check`, the file
is left unchanged and the exit status is 1 where the table is out of date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ptqflow.core.params import Params
from ptqflow.sweep.sections import SECTIONS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- params: `make docs` writes this table -->\n", "<!-- end of params -->\n"


def main() -> int:
    """Write or check the table; return the exit status."""
    page, params = ROOT / "docs" / "params.md", ROOT / "params.yaml"
    text = page.read_text(encoding="utf-8")
    updated = with_table(text, YAML(typ="safe").load(params.read_text(encoding="utf-8")))
    if "--check" not in sys.argv[1:]:
        page.write_text(updated, encoding="utf-8")
    elif text != updated:
        print("docs/params.md: the table is out of date; run `make docs`", file=sys.stderr)
        return 1
    return 0


def with_table(text: str, params: dict[str, dict[str, Any]]) -> str:
    """Return a text with the table of these params between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [row for section, model in SECTIONS.items() for row in _rows(section, model, params[section])]
    header = "| key | default | allowed | meaning |\n|---|---|---|---|\n"
    return f"{before}{BEGIN}{header}{''.join(rows)}{END}{after}"


def _rows(section: str, model: type[Params], values: dict[str, Any]) -> Iterator[str]:
    schema = model.model_json_schema()
    for key, field in schema["properties"].items():
        if "$ref" in field:
            nested = model.model_fields[key].annotation
            assert isinstance(nested, type)
            yield from _rows(f"{section}.{key}", nested, values[key])
        else:
            meaning = " ".join(field["description"].split())
            yield f"| `{section}.{key}` | {_default(values[key])} | {_allowed(field)} | {meaning} |\n"


def _default(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) else json.dumps(value)


def _allowed(schema: dict[str, Any]) -> str:
    """Return what a field's JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(_default, schema["enum"]))
    if "const" in schema:
        return _default(schema["const"])
    match schema["type"]:
        case "boolean":
            return "true, false"
        case "array" if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} of: {_allowed(schema['prefixItems'][0])}"
        case "array":
            return f"list of: {_allowed(schema['items'])}"
        case "object":
            return f"mapping to: {_allowed(schema['additionalProperties'])}"
        case "integer" | "number" as kind:
            return " ".join([kind, *_bounds(schema)])
        case kind:
            return str(kind)


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(schema[name])}" for name, sign in signs.items() if name in schema]
    if bounds:
        yield ", ".join(bounds)


def _number(value: float) -> str:
    exponent = int(value).bit_length() - 1
    return f"2^{exponent}" if value == 2**exponent and exponent >= 32 else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
