import os
import re
import subprocess
import sys
from html import unescape
from inspect import isfunction
from pathlib import Path

import pytest
from site_pages import DOCUMENTED, WIDTH

import ptqflow
from ptqflow.cli import help_texts

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="(?:https?:)?//[^"]*\"""")
"""Tags that have a browser request something of another host."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, for which warnings are errors: a link or an anchor that leads nowhere, a page in no menu."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return folder


def test_every_page_of_docs_and_of_the_root_is_part_of_the_site(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    of_the_root = {"index", "security", "contributing", "changelog", "python", "commands"}
    assert pages | of_the_root <= {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")}


def test_the_pages_load_nothing_from_another_host(site: Path) -> None:
    found = {page.name: LOADED.findall(page.read_text()) for page in site.glob("**/*.html")}
    assert len(found) > 15
    assert {name: tags for name, tags in found.items() if tags} == {}


def test_the_reference_holds_the_docstrings_of_the_python_interface(site: Path) -> None:
    text = (site / "python.html").read_text()
    assert 'id="ptqflow.load"' in text
    assert "the hash of the file that is loaded is checked first" in re.sub(
        r"<[^>]*>|\s+", lambda m: " " if m[0].isspace() else "", text
    )


def test_the_reference_has_every_public_function_of_ptqflow(site: Path) -> None:
    public = {f"ptqflow.{name}" for name, value in vars(ptqflow).items() if isfunction(value) and name[0] != "_"}
    assert len(public) > 1
    assert public <= set(DOCUMENTED)
    text = (site / "python.html").read_text()
    assert {name for name in DOCUMENTED if f'id="{name}"' not in text} == set()


def test_the_reference_of_the_commands_is_what_they_print(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDTH)
    text = unescape(re.sub(r"<[^>]*>", "", (site / "commands.html").read_text()))
    for help_text in help_texts().values():
        assert help_text.strip() in text


def test_links_between_pages_of_docs_the_root_and_the_tutorials_lead_to_pages(site: Path) -> None:
    links = {
        (page, link)
        for page in site.rglob("*.html")
        for link in re.findall(r'href="([^":#]+\.html)(?:#[^"]*)?"', page.read_text())
        if page.name != "404.html"  # which a server shows, at any depth
    }
    assert len(links) > 1000
    assert {(page.name, link) for page, link in links if not (page.parent / link).exists()} == set()
