"""A section of params.yaml, validated.

The model of each section is in the package that uses it: a module with all of them would be a dependency of every
stage, and a new calibration key would retrain the network.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ptqflow.core.errors import ParamsError, one_line

PARAMS_FILE = Path("params.yaml")
_LARGEST = 3.4028234663852886e38


class Params(BaseModel):
    """Base of every section: immutable, without unknown keys, type conversion or infinities."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="after")
    @classmethod
    def _is_in_range_of_float32(cls, value: Any) -> Any:
        if isinstance(value, float) and abs(value) > _LARGEST:
            raise ValueError(f"beyond the range of float32, whose largest number is {_LARGEST:.3g}")
        return value


P = TypeVar("P", bound=Params)


def distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values of a key; for pydantic's `AfterValidator`.

    Raises:
        ValueError: a value occurs twice.
    """
    if len(set(values)) < len(values):
        raise ValueError("holds a number twice")
    return values


def read_params(section: str, model: type[P], path: Path = PARAMS_FILE) -> P:
    """Read one section of a params file.

    The reader is the one that DVC uses (YAML 1.2): for both `1e-3` is a number and `on` a string.

    Raises:
        ParamsError: the file or the section is missing, or a key is unknown, of the wrong type or out of range.
    """
    values = _load(path)
    if section not in values:
        raise ParamsError(f"{path}: section '{section}' is missing; it holds {', '.join(model.model_fields)}")
    if not isinstance(values[section], dict):
        raise ParamsError(
            f"{path}: '{section}' is {values[section]!r}, not a section with {', '.join(model.model_fields)}"
        )
    return validate(section, model, values[section], str(path))


def validate(section: str, model: type[P], values: Mapping[str, Any], origin: str) -> P:
    """Return a section with these values.

    Args:
        section: its name.
        model: of the section.
        values: by their keys.
        origin: where they are from, for an error.

    Raises:
        ParamsError: a key is unknown, missing, of the wrong type or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_describe(section, model, details) for details in error.errors())
        raise ParamsError(f"{origin}: {problems}") from None


def default_sections() -> dict[str, dict[str, Any]]:
    """Return all sections with the values that ptqflow ships."""
    return _load(Path(__file__).parents[1] / "project" / "files" / PARAMS_FILE)


def read_sections(names: Iterable[str], path: Path = PARAMS_FILE) -> dict[str, dict[str, Any]]:
    """Read sections without validation, which is that of their stages, to record what a run was made with.

    Raises:
        ParamsError: the file or a section is missing.
    """
    values = _load(path)
    if missing := [name for name in names if not isinstance(values.get(name), dict)]:
        raise ParamsError(f"{path}: section '{missing[0]}' is missing")
    return {name: values[name] for name in names}


def parse_value(text: str) -> Any:
    """Return a value as YAML 1.2 reads it.

    Raises:
        ParamsError: it is no YAML.
    """
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ParamsError(f"{text!r} is not valid YAML: {one_line(error)}") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from the root of the repository") from None
    except RecursionError:
        raise ParamsError(f"{path} is nested more deeply than YAML is read; keys have 2 or 3 levels") from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-45
        raise ParamsError(f"{path} is not valid YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds {type(values).__name__}, not sections with keys")
    return values


def _describe(section: str, model: type[Params], details: ErrorDetails) -> str:
    key = ".".join([section, *(str(part) for part in details["loc"])])
    if details["type"] == "extra_forbidden":
        name, allowed = str(details["loc"][-1]), list(model.model_fields)
        near = difflib.get_close_matches(name, allowed, n=1)
        return f"unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}")
    if details["type"] == "missing":
        return f"{key} is missing"
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:  # a rule over several keys, which names them itself
        return message
    return f"{key} is {details['input']!r}: {message[0].lower()}{message[1:]}"
