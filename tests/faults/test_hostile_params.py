"""Every key of params.yaml with values that nobody means."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from mutation import hostile
from params_table import SECTIONS
from repository import ROOT
from ruamel.yaml import YAML

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params

pytestmark = pytest.mark.faults

WHOLE = {name: YAML(typ="safe").load(ROOT / "params.yaml")[name] for name in SECTIONS}


def test_hostile_params(random_: random.Random, record_property: Callable[[str, object], None]) -> None:
    section = random_.choice(sorted(SECTIONS))
    values = dict(WHOLE[section])
    key = random_.choice(sorted(values))
    if isinstance(values[key], dict) and values[key] and random_.random() < 0.7:
        inner = random_.choice(sorted(values[key]))
        values[key] = values[key] | {inner: hostile(random_)}
    else:
        values[key] = hostile(random_)
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump({section: values}, file)
    message = ""
    try:
        read_params(section, SECTIONS[section])
    except ParamsError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith("params.yaml: ") or not message
    record_property("outcome", "one line" if message else "valid")
