import json
from pathlib import Path

import pytest
from evaluation import evaluation_figures
from hypothesis import given
from hypothesis import strategies as st

from ptqflow.core.artifacts import Table, write_card, write_metrics
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import (
    CLASSES,
    EPOCHS,
    SENSITIVITY,
    TRIALS,
    ClassRow,
    SensitivityRow,
    TrialRow,
    read_evaluation_figures,
)
from ptqflow.core.paths import FIGURES

ROW = ClassRow(
    name='a cat, or "dog"',
    images=4,
    drop=-0.25,
    low=-0.25,
    high=1e-7,
    both_right=2,
    only_fp32_right=0,
    only_int8_right=1,
    both_wrong=1,
    p_holm=1.0,
)


def test_figures_come_back_from_beside_the_predictions() -> None:
    figures = evaluation_figures(sqnr_db=None)
    write_card(FIGURES, figures)
    assert read_evaluation_figures() == figures


def test_of_the_figures_of_evaluate_those_to_compare_are_metrics_and_what_does_not_exist_has_no_key() -> None:
    write_metrics("evaluate", evaluation_figures(fp32=0.98, int8=0.97, sqnr_db=None).headline(4, 320))
    assert json.loads(Path("metrics/evaluate.json").read_text()) == {
        "fp32_top1": 0.98,
        "int8_top1": 0.97,
        "uncalibrated_top1": 0.5,
        "drop": 0.01,
        "p": 0.00195312,
        "agreement": 0.99,
        "median_sqnr_db": 33.5,
        "fp32_mb": 44.78,
        "int8_mb": 11.31,
        "fp32_layers": 4,
        "calib_images": 320,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"agreement"', '"agreemant"'), "agreement: Field required"),
        (lambda text: text.replace("{", '{"classes": {},', 1), "classes: Extra inputs are not permitted"),
        (lambda text: text.replace('"kl": 0.00125', '"kl": "low"'), "kl: Input should be a valid number"),
        (lambda text: text.replace('"agreement": 0.99', '"agreement": 1.99'), "agreement: Input should be less than"),
        (lambda text: text[:100], "the file: Invalid JSON: EOF while parsing"),
        (lambda _: "", "the file: Invalid JSON: EOF while parsing"),
        (lambda text: f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n", "conflict markers of git"),
    ],
    ids=["missing", "unknown", "type", "range", "cut", "empty", "conflict"],
)
def test_another_file_of_figures_is_one_line_that_names_it(change: object, message: str) -> None:
    write_card(FIGURES, evaluation_figures())
    FIGURES.write_text(change(FIGURES.read_text()))
    with pytest.raises(ArtifactError, match=r"^data/predictions/figures\.json") as caught:
        read_evaluation_figures()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_no_text_are_one_line() -> None:
    with pytest.raises(ArtifactError, match=r"^data/predictions/figures\.json is missing: run `dvc repro`$"):
        read_evaluation_figures()
    FIGURES.parent.mkdir(parents=True)
    FIGURES.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="is not UTF-8 text"):
        read_evaluation_figures()


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\0"), min_size=1))
def test_a_table_comes_back_whatever_the_name_of_a_class(name: str) -> None:
    rows = [ROW.model_copy(update={"name": name}), ROW]
    CLASSES.write(rows)
    assert CLASSES.read() == rows


def test_the_columns_of_a_table_are_the_fields_by_their_aliases() -> None:
    CLASSES.write([ROW])
    header = CLASSES.path.read_text().partition("\n")[0]
    assert header == "class,images,drop,low,high,both_right,only_fp32_right,only_int8_right,both_wrong,p_holm"


def test_empty_cells_are_none_where_a_figure_may_be_missing_and_text_elsewhere() -> None:
    row = SensitivityRow(module="fc", drop=0.0)
    SENSITIVITY.write([row])
    assert SENSITIVITY.path.read_text().splitlines()[1] == "fc,,,0.0,,"
    assert SENSITIVITY.read() == [row]
    trial = TrialRow(modules=0, drop=0.5, chosen=True, kept="")
    TRIALS.write([trial])
    assert TRIALS.read() == [trial]


def test_a_table_without_rows_has_a_header() -> None:
    TRIALS.write([])
    assert TRIALS.path.read_text() == "modules,drop,chosen,kept\n"
    assert TRIALS.read() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty or cut off"),
        ("modules,drop,chosen,kept\n0,0.5,Tr", "is empty or cut off"),
        ("modules,drop\n", "has the columns modules, drop, not modules, drop, chosen, kept"),
        ("modules,drop,chosen,kept\n0,0.5\n", "line 2: not 4 cells"),
        ("modules,drop,chosen,kept\n0,0.5,True,,fc\n", "line 2: not 4 cells"),
        ("modules,drop,chosen,kept\n0,0.5,True,\n1,much,True,\n", "line 3: drop: Input should be a valid number"),
        (f"modules,drop,chosen,kept\n0,0.5,True,{'x' * 200_000}\n", "field larger than field limit"),
        ("<<<<<<< HEAD\nmodules,drop,chosen,kept\n", "holds conflict markers of git"),
    ],
)
def test_another_table_is_one_line_that_names_file_and_line(text: str, message: str) -> None:
    TRIALS.path.parent.mkdir(parents=True)
    TRIALS.path.write_text(text)
    with pytest.raises(ArtifactError, match=r"^metrics/plots/budget\.csv") as caught:
        TRIALS.read()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", [EPOCHS])
def test_a_table_that_lost_all_rows_which_it_always_has_is_one_line(table: Table) -> None:
    table.write([])
    with pytest.raises(
        ArtifactError, match=r"\.csv has 0 rows, not 1 or more; run `ptqflow repair`, then `dvc repro`$"
    ):
        table.read()


def test_no_two_tables_have_one_file() -> None:
    from ptqflow.core import figures

    names = [value.name for value in vars(figures).values() if isinstance(value, Table)]
    assert len(names) == len(set(names)) == 11


def test_figures_out_of_range_are_refused_when_they_are_made() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        evaluation_figures(agreement=1.5)
