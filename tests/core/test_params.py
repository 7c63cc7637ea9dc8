"""params.yaml: read as DVC reads it, refused in one line."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import YAMLFileCorruptedError, modify_yaml, parse_yaml
from pydantic import Field, PositiveInt

from ptqflow.calib.params import CalibParams
from ptqflow.convert.params import ConvertParams, SensitivityParams
from ptqflow.core.errors import ParamsError
from ptqflow.core.params import Params, read_params
from ptqflow.core.run_params import RunParams
from ptqflow.fetch.params import DataParams
from ptqflow.models.params import ModelParams
from ptqflow.train.params import TrainParams

REPOSITORY_PARAMS = Path(__file__).parents[2] / "params.yaml"


class Section(Params):
    batches: PositiveInt
    rate: Annotated[float, Field(gt=0)]
    name: str | None


class Anything(Params):
    value: Any


def read(text: str) -> Section:
    Path("params.yaml").write_text(text)
    return read_params("calib", Section)


@pytest.mark.parametrize(
    "scalar",
    [
        "1e-3",
        "1E3",
        "-.5",
        "1.",
        "010",
        "0o10",
        "0x10",
        "1_000",
        "12:30",
        "on",
        "off",
        "yes",
        "y",
        "true",
        "True",
        "null",
        "~",
        "",
        "'7'",
        "2026-11-24",
        "[1, 2]",
    ],
)
def test_scalars_mean_what_dvc_takes_them_for(scalar: str) -> None:
    text = f"section:\n  value: {scalar}\n"
    Path("params.yaml").write_text(text)
    found, expected = read_params("section", Anything).value, parse_yaml(text, "params.yaml")["section"]["value"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("text", ["calib: =", "calib: {batches: 3", "calib: *nowhere", "calib: 1\n---\ncalib: 2"])
def test_what_dvc_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(YAMLFileCorruptedError):
        parse_yaml(text, "params.yaml")
    with pytest.raises(ParamsError, match=r"params.yaml is not valid YAML"):
        read(text)


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("data", DataParams),
        ("model", ModelParams),
        ("train", TrainParams),
        ("calib", CalibParams),
        ("convert", ConvertParams),
        ("sensitivity", SensitivityParams),
        ("run", RunParams),
    ],
)
def test_the_repositorys_own_params_are_valid_and_complete(section: str, model: type[Params]) -> None:
    assert read_params(section, model, REPOSITORY_PARAMS).model_fields_set == set(model.model_fields)


def test_values_that_dvc_sets_on_the_command_line_are_read_as_they_were_typed() -> None:
    shutil.copy(REPOSITORY_PARAMS, "params.yaml")
    apply_overrides(
        "params.yaml", ["data.limit=500", "data.name=cifar10", "train.lr=1e-3", "train.horizontal_flip=true"]
    )
    apply_overrides("params.yaml", ["data.limit=null", "model.mean=[0.5,0.4,0.3]", "model.std=[0.2,0.2,1]"])
    data, model, train = (
        read_params("data", DataParams),
        read_params("model", ModelParams),
        read_params("train", TrainParams),
    )
    assert (data.limit, data.name) == (None, "cifar10")
    assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 1))
    assert (train.lr, train.horizontal_flip) == (0.001, True)


def test_a_string_that_dvc_sets_on_the_command_line_is_no_number() -> None:
    shutil.copy(REPOSITORY_PARAMS, "params.yaml")
    apply_overrides("params.yaml", ["calib.batches='3'"])
    with pytest.raises(ParamsError, match=r"calib.batches is '3': input should be a valid integer"):
        read_params("calib", CalibParams)


def test_values_are_read_and_frozen() -> None:
    section = read("calib: {batches: 3, rate: 1e-3, name: null}")
    assert section == Section(batches=3, rate=0.001, name=None)
    with pytest.raises(ValueError, match="frozen"):
        section.batches = 4  # type: ignore[misc]


def test_an_integer_is_good_for_a_float() -> None:
    assert read("calib: {batches: 3, rate: 1, name: null}").rate == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("calib: {batchs: 3, batches: 3, rate: 1, name: a}", "unknown key calib.batchs; did you mean batches?"),
        ("calib: {zzz: 3, batches: 3, rate: 1, name: a}", "unknown key calib.zzz; allowed: batches, rate, name"),
        ("calib: {batches: 3, rate: 1}", "calib.name is missing"),
        ("calib: {batches: '3', rate: 1, name: a}", "calib.batches is '3': input should be a valid integer"),
        ("calib: {batches: 3.0, rate: 1, name: a}", "calib.batches is 3.0: input should be a valid integer"),
        ("calib: {batches: true, rate: 1, name: a}", "calib.batches is True: input should be a valid integer"),
        ("calib: {batches: null, rate: 1, name: a}", "calib.batches is None: input should be a valid integer"),
        ("calib: {batches: 0, rate: 1, name: a}", "calib.batches is 0: input should be greater than 0"),
        ("calib: {batches: 3, rate: .inf, name: a}", "calib.rate is inf: input should be a finite number"),
        ("calib: {batches: 3, rate: .nan, name: a}", "calib.rate is nan: input should be a finite number"),
        ("calib: {batches: 3, rate: on, name: a}", "calib.rate is 'on': input should be a valid number"),
        ("calib: {batches: 3, rate: 1, name: 7}", "calib.name is 7: input should be a valid string"),
        ("calib: {batches: 0, rate: 0, name: a}", "calib.batches is 0: input should be greater than 0; calib.rate is"),
        ("calib: {1: 3, batches: 3, rate: 1, name: a}", "calib.1 is 1: keys should be strings"),
        ("calib: 3", "'calib' is 3, not a section with batches, rate, name"),
        ("calib:", "'calib' is None, not a section with batches, rate, name"),
        ("calib: [1, 2]", "'calib' is [1, 2], not a section with batches, rate, name"),
        ("other: {}", "section 'calib' is missing; it holds batches, rate, name"),
        ("- calib", "holds list, not sections with keys"),
        ("", "holds NoneType, not sections with keys"),
        ("calib: {batches: 3, batches: 4}", 'found duplicate key "batches"'),
        ("calib: 1\ncalib: 2", 'found duplicate key "calib"'),
        ("calib: 2026-13-45", "is not valid YAML: month must be in 1..12"),
        ("calib: !!python/object:os.system {}", "could not determine a constructor for the tag"),
    ],
)
def test_bad_params_are_one_line_that_names_the_key_and_the_value(text: str, words: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith("params.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused() -> None:
    Path("params.yaml").write_bytes("calib: {name: Café}".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"params.yaml is not valid YAML: 'utf-8' codec can't decode"):
        read_params("calib", Section)


def test_a_missing_file_names_where_to_run() -> None:
    with pytest.raises(ParamsError, match=r"params.yaml is missing: run from the root of the repository"):
        read_params("calib", Section)


def test_a_number_beyond_float32_and_a_file_of_deep_nesting_are_one_line(tmp_path: Path) -> None:
    class Rates(Params):
        rate: float

    file = tmp_path / "deep.yaml"
    file.write_text("rates: {rate: 1.0e+300}\n")
    with pytest.raises(ParamsError, match=r"rates\.rate is 1e\+300: beyond the range of float32, .* 3\.4e\+38$"):
        read_params("rates", Rates, file)
    file.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ParamsError, match=r"deep\.yaml is nested more deeply than YAML is read"):
        read_params("rates", Rates, file)


def test_the_first_param_that_dvc_sets_changes_one_line(tmp_path: Path) -> None:
    changed = tmp_path / "params.yaml"
    before = REPOSITORY_PARAMS.read_text()
    changed.write_text(before)

    with modify_yaml(str(changed)) as params:  # what `dvc exp run -S calib.batches=11` calls
        params["calib"]["batches"] = 11

    pairs = zip(before.splitlines(), changed.read_text().splitlines(), strict=True)
    assert [line.split()[:2] for line, new in pairs if line != new] == [["batches:", "10"]]
