"""Tables for a terminal or a text file."""

from collections.abc import Sequence


def format_text_table(rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Return rows of equal length as lines whose columns are aligned and two spaces apart, without trailing spaces.

    Args:
        rows: the cells, the header among them if there is one.
        align: `<` (left) or `>` (right) for each column, as in a format specification; left where it is shorter.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), "<")
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
