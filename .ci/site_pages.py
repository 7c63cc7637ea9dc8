"""Hooks of MkDocs: the pages of the site that are not in docs/, and links between both kinds.

The files at the root of the repository are pages too; `python.md` is made of docstrings, `commands.md` of what the
commands print with `--help`.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ptqflow.cli import help_texts

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the root by the name of their page."""
_ERRORS = ("PtqflowError", "ParamsError", "DataError", "ModelError", "ArtifactError", "EngineError", "PtqflowWarning")
DOCUMENTED = (
    "ptqflow.quantize",
    "ptqflow.quantization.result.Quantization",
    "ptqflow.load",
    "ptqflow.inference.classifier.Classifier",
    *(f"ptqflow.core.errors.{name}" for name in _ERRORS),
)
WIDTH = "100"
"""Of what the commands print, whatever the terminal."""
_LINK = re.compile(r"\]\(([\w./-]+\.md)(#[\w-]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the references of the Python interface and of the commands."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    pages["python.md"] = "\n\n".join(["# Python", *(f"::: {name}" for name in DOCUMENTED)])
    pages["commands.md"] = _commands()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links between files of the repository to pages of the site."""
    here = _in_repository(page.file.src_uri).parent

    def rewritten(link: re.Match[str]) -> str:
        target = os.path.normpath(here / link[1])
        of_site = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({os.path.relpath(of_site, PurePosixPath(page.file.src_uri).parent)}{link[2] or ''})"

    return _LINK.sub(rewritten, markdown)


def _in_repository(uri: str) -> PurePosixPath:
    of_root = {page: name for name, page in PAGES.items()}
    return PurePosixPath(of_root[uri]) if uri in of_root else PurePosixPath("docs", uri)


def _commands() -> str:
    os.environ["COLUMNS"] = WIDTH
    texts = help_texts()
    sections = (f"## ptqflow {command}\n\n```text\n{text}```" for command, text in texts.items() if command)
    return "\n\n".join([f"# Commands\n\n```text\n{texts['']}```", *sections]) + "\n"
