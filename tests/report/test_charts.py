import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import numpy as np
import pytest
import vl_convert
from svg import SVG, texts

import ptqflow.report
from ptqflow.report import charts
from ptqflow.report.charts import COLORS, draw

HOSTILE = ("</script><script>alert(1)</script>", 'a"b\\', "datum.x", "a\u2028b", "'+alert(1)+'", "")
ROWS = [
    {
        **dict.fromkeys(("class", "tensor", "module"), name),
        **{"sqnr_db": i - 1, "drop": i, "low": i - 1, "high": i + 1, "sure": i > 2},
    }
    for i, name in enumerate(HOSTILE)
]
EPOCHS = [{"epoch": i, "train": 1 / i, "val": 2 / i} for i in range(1, 6)]


def specs() -> dict[str, alt.LayerChart]:
    counts = np.arange(36).reshape(6, 6) - 18
    return {
        "curves": charts.curves(EPOCHS, {"train": "train", "val": "val"}, 1, "loss"),
        "matrix": charts.matrix(np.abs(counts), HOSTILE, signed=False),
        "difference": charts.matrix(counts, HOSTILE, signed=True),
        "drops": charts.drops(ROWS),
        "sensitivities": charts.sensitivities(ROWS),
        "ranges": charts.ranges([{**row, "min": -5, "max": 50} for row in ROWS]),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return {name: draw(spec) for name, spec in specs().items()}


def test_every_chart_is_well_formed_with_no_script_no_link_and_no_id(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        elements = list(ElementTree.fromstring(svg).iter())
        assert {element.tag.removeprefix(SVG) for element in elements} <= {"svg", "g", "path", "line", "text", "rect"}
        assert not any(key in ("id", "href", "onload") for element in elements for key in element.attrib)


def test_every_color_has_a_rule_in_the_style_sheet(drawn: dict[str, str]) -> None:
    style = (Path(ptqflow.report.__file__).parent / "page.css").read_text()
    used = {pair for svg in drawn.values() for pair in re.findall(r'(fill|stroke)="(#[0-9a-fA-F]+)"', svg)}
    assert {color for _, color in used} == set(COLORS)
    for attribute, color in used:
        assert f'.chart [{attribute}="{color}"] {{ {attribute}: var(--' in style
    assert not re.search(r'(fill|stroke)="(?!none|transparent|#)', "".join(drawn.values()))


@pytest.mark.parametrize("name", ["matrix", "difference", "drops", "sensitivities", "ranges"])
def test_any_name_is_shown_unchanged(drawn: dict[str, str], name: str) -> None:
    shown = texts(drawn[name])
    for text in ('a"b\\', "datum.x", "'+alert(1)+'"):
        assert text in shown
    assert any(text.startswith("</scri") for text in shown)


def test_equal_figures_draw_equal_bytes_in_another_process(drawn: dict[str, str]) -> None:
    code = f"""
import runpy
tests = runpy.run_path({__file__!r})
for spec in tests["specs"]().values():
    print(tests["draw"](spec))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert other.stdout.decode() == "".join(f"{svg}\n" for svg in drawn.values())


def test_vl_convert_has_the_vega_lite_version_that_altair_validates_against() -> None:
    major_and_minor = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    assert major_and_minor in vl_convert.get_vegalite_versions()


def test_each_nonzero_cell_has_its_number() -> None:
    counts = np.array([[3, 0], [1, 20]])
    assert sorted(text for text in texts(draw(charts.matrix(counts, "ab", signed=False))) if text.isdigit()) == [
        *("1", "20", "3"),
    ]
    difference = texts(draw(charts.matrix(counts - 2, "ab", signed=True)))
    assert [text for text in difference if text[:1] in "+-" and text] == ["+1", "-2", "-1", "+18"]


def test_classes_of_the_same_name_keep_separate_rows() -> None:
    shown = texts(draw(charts.matrix(np.eye(3, dtype=np.int64), ("same", "same", "same"), signed=False)))
    assert shown.count("same") == 6
    assert shown.count("1") == 3


def test_lines_also_differ_by_their_dash(drawn: dict[str, str]) -> None:
    assert drawn["curves"].count('stroke-dasharray="5,3"') == 2  # the line and its entry in the legend


def test_classes_beyond_noise_have_another_shape(drawn: dict[str, str]) -> None:
    points = re.findall(r'<path[^>]* d="(M[^"]*)"[^>]*fill="(#\w+)"', drawn["drops"])
    shapes = {
        color: {"A" in path for path, found in points if found == color} for color in (charts.BLUE, charts.ORANGE)
    }
    assert shapes == {charts.BLUE: {True}, charts.ORANGE: {False}}  # circles have arcs


def test_a_line_of_one_epoch_and_an_empty_matrix_can_be_drawn() -> None:
    assert texts(draw(charts.curves(EPOCHS[:1], {"train": "train", "val": "val"}, 1, "loss")))
    assert texts(draw(charts.matrix(np.zeros((2, 2), dtype=np.int64), "ab", signed=True)))


def test_charts_fit_a_phone_unscaled(drawn: dict[str, str]) -> None:
    assert {ElementTree.fromstring(svg).attrib["width"] for svg in drawn.values()} == {"350"}
