"""The table of docs/networks.md: `make networks` writes it, and the tests compare what they measure with it.

With names of networks, only these and those that the table lacks are measured.
"""

import logging
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.measure import ROOT, measure
from zoo.networks import GROUPS

from ptqflow.core.errors import ModelError

PAGE = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- networks: `make networks` writes this table -->\n", "<!-- end of networks -->\n"
_NOTE = 160
"""Characters of a note."""


@dataclass(frozen=True)
class Row:
    """A network, its SQNR to FP32 in decibels, None where there is no such network or file, and why."""

    network: str
    torch_db: float | None
    onnx_db: float | None
    onnxruntime_db: float | None
    note: str

    @property
    def lead_db(self) -> float | None:
        """How much nearer to FP32 it is, in torch and in ONNX Runtime, than what ONNX Runtime makes; None without."""
        if self.torch_db is None or self.onnx_db is None or self.onnxruntime_db is None:
            return None
        return min(self.torch_db, self.onnx_db) - self.onnxruntime_db


def main() -> None:
    """Measure the networks and write the table."""
    warnings.simplefilter("ignore")  # of torch, torchvision and ONNX Runtime about the networks
    logging.disable(logging.WARNING)
    known = read_table() if sys.argv[1:] else {}
    kept = {name: row for name, row in known.items() if name not in sys.argv[1:]}
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{''.join(_lines(kept))}{END}{after}", encoding="utf-8")


def read_table() -> dict[str, Row]:
    """Return the rows of the page by the names of their networks."""
    lines = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    rows = [Row(name.strip("`"), _number(a), _number(b), _number(c), note) for name, a, b, c, note in cells]
    return {row.network: row for row in rows}


def measure_row(name: str) -> Row:
    """Measure a network."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            found = measure(name, Path(directory))
        except ModelError as error:
            return Row(name, None, None, None, f"refused: {error}")
    return Row(name, found.torch_db, found.onnx_db, found.onnxruntime_db, found.note)


def _lines(kept: Mapping[str, Row]) -> Iterator[str]:
    for group, networks in GROUPS.items():
        yield f"\n### {group}\n\n| network | torch | ONNX | ONNX Runtime's own | note |\n|---|---|---|---|---|\n"
        for row in (kept.get(name) or measure_row(name) for name in networks):
            cells = [
                f"`{row.network}`",
                *map(_decibels, (row.torch_db, row.onnx_db, row.onnxruntime_db)),
                _short(row.note),
            ]
            yield f"| {' | '.join(cells)} |\n"
    yield "\n"


def _decibels(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"


def _number(cell: str) -> float | None:
    return None if cell == "—" else float(cell)


def _short(note: str) -> str:
    return textwrap.shorten(note.replace(f"{ROOT}/", "").replace("|", "/"), _NOTE, placeholder=" …")


if __name__ == "__main__":
    main()
