"""Look at a page in Debian's Chromium."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

DESK = 1200


@contextmanager
def opened(
    browser: Browser, file: Path, width: int = DESK, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """Open a file; at the end, fail if anything went wrong on it or it asked for anything but itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    yield page
    context.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
