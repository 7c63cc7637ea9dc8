"""The grid of a sweep: what `-S` expressions of DVC set, in all combinations."""

import difflib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import PARAMS_FILE, read_params
from ptqflow.sweep.sections import SECTIONS

_EXAMPLE = "write KEY=VALUE,VALUE,… as for `dvc exp run --queue`, such as calib.batches=1,5,20"


@dataclass(frozen=True)
class Setting:
    """A key of params.yaml and its value, as DVC's `--set-param` writes them."""

    key: str
    override: str


Combination = tuple[Setting, ...]
"""A value for each key of the grid."""


@dataclass(frozen=True)
class Grid:
    """Combinations of settings."""

    combinations: tuple[Combination, ...]

    @property
    def swept(self) -> frozenset[str]:
        """Keys with more than one value."""
        values: dict[str, set[str]] = {}
        for setting in itertools.chain.from_iterable(self.combinations):
            values.setdefault(setting.key, set()).add(setting.override)
        return frozenset(key for key, overrides in values.items() if len(overrides) > 1)


def parse_grid(expressions: Sequence[str], params: Path = PARAMS_FILE) -> Grid:
    """Return every combination of what expressions set, each once and valid for the models of params.yaml.

    Raises:
        ParamsError: an expression is no grid, sets a key that another one sets, or sets what params.yaml may not hold.
    """
    settings = [_parse(expression) for expression in expressions]
    keys = [choices[0].key for choices in settings]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ParamsError(f"-S sets {twice[0]} twice; write its values in one expression: {twice[0]}=VALUE,VALUE")
    grid = Grid(tuple(dict.fromkeys(itertools.product(*settings))))
    with TemporaryDirectory() as folder:
        for combination in grid.combinations:
            _validate(combination, params, Path(folder) / params.name)
    return grid


def _parse(expression: str) -> tuple[Setting, ...]:
    """Return the settings of one key, in order."""
    [(file, [text])] = to_path_overrides([expression]).items()
    if file != PARAMS_FILE.name:
        raise ParamsError(f"-S '{expression}' sets a key of {file}; a sweep sets keys of {PARAMS_FILE} alone")
    try:
        [override] = to_hydra_overrides([text])
        [values] = BasicSweeper.split_arguments([override], None)
    except HydraException as error:  # of the grammar, and for glob() and interval()
        reason = str(error).splitlines()[0]
        raise ParamsError(f"-S '{expression}' is no grid ({reason}): {_EXAMPLE}") from None
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or not key:
        raise ParamsError(f"-S '{expression}' does not set a key: {_EXAMPLE}")
    return tuple(Setting(key, value) for [value] in values)


def _validate(combination: Combination, params: Path, copy: Path) -> None:
    """Set a combination in a copy of the params and read the sections that it changes."""
    shutil.copyfile(params, copy)
    # Forced, so that an unknown key reaches the section's model, which names the key that may be meant.
    apply_overrides(copy, [f"++{setting.override}" for setting in combination])
    for section in dict.fromkeys(setting.key.partition(".")[0] for setting in combination):
        if section not in SECTIONS:
            near = difflib.get_close_matches(section, SECTIONS, n=1)
            raise ParamsError(
                f"{params} has no section {section}; "
                + (f"did you mean {near[0]}?" if near else f"it has {', '.join(SECTIONS)}")
            )
        try:
            read_params(section, SECTIONS[section], copy)
        except ParamsError as error:
            raise ParamsError(f"-S: {str(error).removeprefix(f'{copy}: ')}") from None
