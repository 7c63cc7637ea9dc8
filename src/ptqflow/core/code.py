"""The hash of the library's code."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_LIBRARY = Path(__file__).parents[1]


def hash_packages(names: Iterable[str]) -> str:
    """Return the hex SHA-256 of the Python files of packages of ptqflow: their paths and their bytes.

    It depends neither on the order of `names`, nor on what is imported, nor on where ptqflow is installed.

    Args:
        names: of the packages, such as `core`.

    Raises:
        ValueError: ptqflow has no such package.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        if not (_LIBRARY / name / "__init__.py").is_file():
            raise ValueError(f"ptqflow has no package {name!r}")
        for file in sorted((_LIBRARY / name).rglob("*.py")):
            path, data = file.relative_to(_LIBRARY).as_posix().encode(), file.read_bytes()
            digest.update(path + b"\0" + len(data).to_bytes(8) + data)
    return digest.hexdigest()
