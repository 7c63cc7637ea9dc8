"""Hooks of MkDocs: the pages of the site that are not in docs/, and links between both kinds.

The files at the root of the repository are pages too; `python.md` is made of docstrings.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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
_LINK = re.compile(r"\]\((?:\.\./)?(?:docs/)?([\w.-]+\.md)(#[\w-]+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root and the reference of the Python interface."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    pages["python.md"] = "\n\n".join(["# Python", *(f"::: {name}" for name in DOCUMENTED)])
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links to pages of the site, which all lie in one folder."""
    return _LINK.sub(lambda link: f"]({PAGES.get(link[1], link[1])}{link[2] or ''})", markdown)
