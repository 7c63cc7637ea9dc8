"""Which library modules a stage script imports, directly or through others."""

import ast
from pathlib import Path

PACKAGE = "ptqflow"


def imported_modules(script: Path, source: Path) -> set[Path]:
    """Return the files below `source` that running `script` may import, without __init__.py, which runs nothing."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for name in _imported_names(waiting.pop()):
            file = source / f"{name.replace('.', '/')}.py"
            if file.exists() and file not in found:
                found.add(file)
                waiting.append(file)
    return found


def _imported_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith(PACKAGE)}
