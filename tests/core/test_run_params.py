"""The run section: what is allowed, and that no stage's cache key holds it."""

from pathlib import Path

import pytest
from repository import PIPELINES, ROOT, stages_of
from ruamel.yaml import YAML

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.core.run_params import RunParams

USUAL = {"processes": 1, "threads": None, "batch_size": 256, "checkpoint_every": 5}


def read(**changes: object) -> RunParams:
    YAML().dump({"run": USUAL | changes}, Path("params.yaml"))
    return read_params("run", RunParams)


def test_the_section_of_the_repository_is_allowed() -> None:
    assert read_params("run", RunParams, ROOT / "params.yaml").model_dump() == USUAL


@pytest.mark.parametrize(
    ("key", "value"), [("processes", 1), ("threads", 1), ("batch_size", 1), ("checkpoint_every", 0)]
)
def test_the_ends_of_what_is_allowed_are_allowed(key: str, value: object) -> None:
    assert getattr(read(**{key: value}), key) == value


@pytest.mark.parametrize("key", ["processes", "threads", "batch_size", "checkpoint_every"])
def test_a_value_below_is_reported_with_its_key(key: str) -> None:
    with pytest.raises(ParamsError, match=rf"run\.{key} is -1: input should be greater than"):
        read(**{key: -1})


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_stage_depends_on_it(pipeline: str) -> None:
    listed = [str(entry) for stage in stages_of(pipeline).values() for entry in stage.get("params", [])]
    assert not [entry for entry in listed if entry == "run" or entry.startswith("run.")]
