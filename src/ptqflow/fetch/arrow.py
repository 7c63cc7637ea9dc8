"""pyarrow, an optional package that reads parquet and Arrow files."""

from typing import Any

from ptqflow.core.errors import DataError


def import_pyarrow(what: str) -> Any:
    """Return pyarrow.

    Args:
        what: is to be read, for the error.

    Raises:
        DataError: it is not installed; the error names the extra that installs it.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise DataError(f"{what} needs pyarrow, which is not installed: `pip install 'ptqflow[parquet]'`") from None
    return pyarrow


def is_text(kind: object) -> bool:
    """Return whether a type of pyarrow is one of its types of strings."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
