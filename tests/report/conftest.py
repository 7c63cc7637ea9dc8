"""Reports of runs in miniature."""

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_run import write_run
from reported import a_clone

from ptqflow.report.page import make_page
from ptqflow.report.results import read_results


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the report of a run in miniature."""

    def write(*, benchmark: bool = False, **options: object) -> Path:
        write_run(**options)
        page = tmp_path / "index.html"
        page.write_text(make_page(read_results(), a_clone() if benchmark else None))
        return page

    return write
