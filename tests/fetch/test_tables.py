"""CSV and parquet files are the same rows, and none of them fills the memory."""

import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import ptqflow
from ptqflow.core.errors import DataError
from ptqflow.fetch.tables import Row, read_table

MOST = 1_000_000


def written(columns: dict[str, object], **options: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def read(data: bytes, name: str = "t.parquet", most: int = MOST) -> list[Row]:
    return read_table(f"/data: {name}", name, data, most).rows


def refusal(data: bytes, name: str = "t.parquet", most: int = MOST) -> str:
    with pytest.raises(DataError) as error:
        read(data, name, most)
    assert "\n" not in str(error.value)
    return str(error.value)


PATHS = ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["3", " 12 ", None]),
        pa.array([3, 12, None], pa.int8()),
        pa.array(["3", "12", None], pa.large_string()),
        pa.array(["3", "12", None], pa.string_view()),
        pa.array(["3", "12", None]).dictionary_encode(),
    ],
    ids=lambda labels: str(labels.type),
)
def test_text_and_integers_of_any_type_are_those_of_a_csv_file(labels: pa.Array) -> None:
    expected = read(b"path,label\na.png,3\nb.png, 12\nc.png,\n", "t.csv")
    assert read(written({"path": PATHS, "label": labels})) == expected
    assert [row["label"] for row in expected] == ["3", "12", ""]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_of_other_names_count_for_nothing_not_even_one_without_a_name(suffix: str) -> None:
    columns = {"": ["train", "7", "x"], "PATH": PATHS, "Label ": ["x", "y", "z"], "pixels": [0, 1, 2]}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    data = "\n".join(lines).encode() if suffix == "csv" else written(columns)
    assert read(data, f"t.{suffix}") == [
        {"path": path, "label": label, "split": ""} for path, label in zip(PATHS, "xyz", strict=True)
    ]


def test_row_groups_are_read_in_their_order() -> None:
    paths = [f"{i}.png" for i in range(10_000)]
    rows = read(written({"path": paths, "label": paths}, row_group_size=999, compression="zstd"))
    assert [row["path"] for row in rows] == paths


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no readable parquet file ("),
        (b"path,label\n", "is no readable parquet file ("),
        (written({"path": PATHS, "label": PATHS})[:-20] + b"damagedPAR1" * 2, "is no readable parquet file ("),
        (written({"path": pa.array([b"\xff"]).cast(pa.string(), safe=False), "label": ["a"]}), "no readable parquet"),
        (written({"label": PATHS, "split": PATHS}), "has the columns label, split; path is missing"),
        (written({"path": PATHS, "label": [0.0, 1.0, 2.0]}), "column label has values of type double; write text or"),
        (written({"path": [["a.png"]] * 3, "label": PATHS}), "the column path has values of type list<"),
        (written({"path": PATHS, "label": PATHS, "Path": PATHS}), "has the column path 2 times; keep one"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_line(data: bytes, words: str) -> None:
    message = refusal(data)
    assert message.startswith("/data: t.parquet ") or message.startswith("/data: t.parquet: ")
    assert words in message


@pytest.mark.parametrize("position", range(4, 400, 7))
def test_a_damaged_byte_is_no_other_error(position: int) -> None:
    data = bytearray(written({"path": PATHS, "label": PATHS}, compression="none"))
    data[position] ^= 0xFF
    with suppress(DataError):
        read(bytes(data))


def test_a_small_file_that_expands_to_much_text_is_refused() -> None:
    many = np.zeros(2_000_000, np.int32)
    columns = {"path": pa.DictionaryArray.from_arrays(many, ["a" * 1000]), "label": pa.array(many)}
    data = written(columns)
    assert len(data) < MOST
    assert "has text of more than 1,000,000 bytes, which is what data.max_megapixels allows" in refusal(data)


def test_without_pyarrow_the_extra_is_named_and_csv_is_read() -> None:
    program = """
import sys
sys.modules["pyarrow"] = None
from ptqflow.fetch.tables import read_table
assert len(read_table("t.csv", "t.csv", b"path,label\\na,b\\n", 100).rows) == 1
read_table("/data: t.parquet", "t.parquet", b"PAR1", 100)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(ptqflow.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip().endswith(
        "DataError: /data: t.parquet is a parquet file, which needs pyarrow, which is not installed: "
        "`pip install 'ptqflow[parquet]'`"
    )
