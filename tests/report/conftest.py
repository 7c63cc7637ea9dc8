"""A browser, and reports of made-up runs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finished_run import write_benchmark, write_run
from playwright.sync_api import Browser, sync_playwright

from ptqflow.report.page import make_page
from ptqflow.report.results import read_results


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the report of a made-up run."""

    def write(*, benchmark: bool = False, **options: object) -> Path:
        write_run(**options)
        if benchmark:
            write_benchmark()
        page = tmp_path / "index.html"
        page.write_text(make_page(read_results()))
        return page

    return write
