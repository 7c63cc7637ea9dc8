"""pyarrow, an optional package that reads parquet and Arrow files."""

import struct
from collections.abc import Iterator
from pathlib import Path
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


def open_stream(path: Path) -> Iterator[Any]:
    """Yield the schema of a file in Arrow's streaming format, then its batches, mapped into memory.

    Raises:
        DataError: the file is compressed, so that its batches could be of any size in memory.
        ArrowException, OSError, ValueError: it is damaged.
    """
    import pyarrow
    from pyarrow import ipc

    for message in ipc.MessageReader.open_stream(pyarrow.memory_map(str(path))):
        if _is_compressed(message.metadata.to_pybytes()):
            raise DataError(f"{path} is compressed Arrow, which would have to fit into memory; write it without")
    stream = ipc.open_stream(pyarrow.memory_map(str(path)))
    yield stream.schema
    yield from stream


def _is_compressed(message: bytes) -> bool:
    """Return whether the header of a message, a FlatBuffer that pyarrow has verified, states a compression.

    pyarrow decompresses a batch before it can be asked. Numbers of fields are those of Arrow's Message.fbs.
    """
    batch = _table(message, _field(message, struct.unpack_from("<I", message)[0], 2))
    kind = _field(message, struct.unpack_from("<I", message)[0], 1)
    if kind and message[kind] == 2:  # a DictionaryBatch, which holds a RecordBatch
        batch = _table(message, _field(message, batch, 1))
    return bool(kind and message[kind] in (2, 3) and _field(message, batch, 3))


def _field(message: bytes, table: int, number: int) -> int:
    """Return where a field of a table is, 0 if the table has none."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    [size] = struct.unpack_from("<H", message, vtable)
    place = 4 + 2 * number
    [offset] = struct.unpack_from("<H", message, vtable + place) if place < size else (0,)
    return table + offset if offset else 0


def _table(message: bytes, reference: int) -> int:
    return reference + int(struct.unpack_from("<I", message, reference)[0])
