import pytest

from ptqflow.report.components import Table, cut, decimals, limited_table, listed, percent, signed_points, with_code


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.00125, "+0.12"), (-0.00126, "-0.13"), (0.0, "0.00"), (-0.0, "0.00"), (0.00002, "+0.002"), (-1.0, "-100.00")],
)
def test_points_have_their_sign_and_only_zero_is_shown_as_zero(fraction: float, text: str) -> None:
    assert signed_points(fraction) == text


def test_what_stands_between_backticks_is_code_and_all_is_escaped() -> None:
    assert with_code("run `a <b>` & `c`") == "run <code>a &lt;b&gt;</code> &amp; <code>c</code>"
    assert with_code("<none>") == "&lt;none&gt;"


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.98765, "98.77"), (1.0, "100.00"), (0.0, "0.00"), (0.00004, "0.00"), (None, "-")]
)
def test_a_fraction_is_in_percent_and_none_is_a_dash(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


@pytest.mark.parametrize(("value", "digits", "text"), [(2.71828, 4, "2.7183"), (-1.0, 1, "-1.0"), (None, 4, "-")])
def test_a_number_is_rounded_and_none_is_a_dash(value: float | None, digits: int, text: str) -> None:
    assert decimals(value, digits) == text


def test_ten_names_are_listed_and_further_ones_counted() -> None:
    letters = list("abcdefghijkl")
    assert listed([]) == ""
    assert listed(letters[:1]) == "a"
    assert listed(letters[:10]) == "a, b, c, d, e, f, g, h, i, j"
    assert listed(letters[:11]) == "a, b, c, d, e, f, g, h, i, j and 1 more"
    assert listed(letters) == "a, b, c, d, e, f, g, h, i, j and 2 more"


def test_a_description_says_that_bars_are_cut_where_there_are_more_than_forty() -> None:
    assert cut(40) == ""
    assert cut(41) == ", of which the first 40 are shown"


def test_a_table_of_four_hundred_rows_is_whole() -> None:
    rows = [[f"{i}"] for i in range(400)]
    assert limited_table(["row"], rows, "rows.csv") == Table(["row"], rows, note="", words=False)


def test_a_longer_table_keeps_the_first_rows_and_names_the_file_with_all() -> None:
    rows = [[f"{i}"] for i in range(1234)]
    table = limited_table(["row"], rows, "rows.csv")
    assert table.rows == rows[:400]
    assert table.note == "The first 400 of 1,234 rows; all are in rows.csv."
