"""Tables and charts of the page, and numbers as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ptqflow.evaluate.verdict import format_points

BARS = 40  # in a chart
_ROWS = 400  # in a table


@dataclass(frozen=True)
class Table:
    """Rows of text, the first cell of each its head."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False
    """Whether the cells hold words, not figures."""


@dataclass(frozen=True)
class Chart:
    """A drawing and its description in words; its figures are in a table beside it."""

    title: str
    description: str
    drawing: Markup


def limited_table(columns: Sequence[str], rows: Sequence[Sequence[str]], source: str) -> Table:
    """Return a table of the first rows, so that the page stays small."""
    note = f"The first {_ROWS} of {len(rows):,} rows; all are in {source}." if len(rows) > _ROWS else ""
    return Table(columns, rows[:_ROWS], note)


def cut(count: int) -> str:
    """Return the addition to a description where a chart does not show all."""
    return f", of which the first {BARS} are shown" if count > BARS else ""


def listed(names: Sequence[str]) -> str:
    """Return the first ten names."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def signed_points(fraction: float) -> str:
    """Return a difference of accuracies in points with its sign, none for zero."""
    sign = "+" if fraction > 0 else "-" if fraction < 0 else ""
    return sign + format_points(abs(fraction))


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with two decimals, or a dash where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def decimals(value: float | None, digits: int) -> str:
    """Return a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def with_code(text: str) -> Markup:
    """Return text as HTML, in which what stands between backticks is code."""
    odd = Markup("<code>{}</code>").format
    return Markup("").join(odd(part) if i % 2 else part for i, part in enumerate(text.split("`")))
