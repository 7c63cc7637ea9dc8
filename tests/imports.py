"""Which packages of the library a file imports, directly or through others."""

import ast
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "ptqflow"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE


def packages() -> list[str]:
    """Return the packages of the library."""
    return sorted(init.parent.name for init in SOURCE.glob("*/__init__.py"))


def imported_packages(*files: Path) -> set[str]:
    """Return what files import of the library itself: its packages, and modules at its root."""
    return {name.split(".")[1] for file in files for name in _imported_names(file) if name.startswith(f"{PACKAGE}.")}


def closure(names: Iterable[str]) -> set[str]:
    """Return packages and all that they import, directly or through others."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imported_packages(*(SOURCE / name).rglob("*.py"))
    return found


def imports_torch_ao(file: Path) -> bool:
    """Return whether a file imports torch's quantization, under its new name or its old one."""
    return any(name.startswith(("torch.ao", "torch.quantization")) for name in _imported_names(file))


def _imported_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
