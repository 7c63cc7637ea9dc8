"""Images with labels in a table, or as `save_to_disk` of Hugging Face's `datasets` writes them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from samples import png

NAMES = ["dog", "cat"]
CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}
TEXT = {"dtype": "string", "_type": "Value"}
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Cell = dict[str, object] | None
Rows = tuple[list[Cell], list[Any]]


def table(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "label", "split")) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def parquet_table(rows: list[tuple[str, ...]]) -> bytes:
    file = io.BytesIO()
    columns = zip(*rows, strict=True)
    parquet.write_table(pa.table(dict(zip(("path", "label", "split"), map(list, columns), strict=False))), file)
    return file.getvalue()


TABLES = {"labels.csv": table, "labels.parquet": parquet_table}


def rows(count: int, first: int = 0) -> Rows:
    """Return images as `datasets` stores them, and labels in turn."""
    images = [{"bytes": png(seed), "path": None} for seed in range(first, first + count)]
    return images, [i % 2 for i in range(count)]


def save(folder: Path, part: Rows, label: dict[str, object] = CLASS_LABEL, shards: int = 1, **more: Any) -> Path:
    """Write as `Dataset.save_to_disk` does; `more` are other features, each null in all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = part
    features = {"image": {"_type": "Image"}, "label": label, **more}
    types = {"ClassLabel": pa.int64(), "Image": FILE, "Value": pa.string()}
    fields = [pa.field(name, types[str(feature["_type"])]) for name, feature in features.items()]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata)
    columns = [images, labels, *([None] * len(images) for _ in more)]
    files = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, file in enumerate(files):
        start, end = (len(images) * j // shards for j in (i, i + 1))
        arrays = [pa.array(column[start:end], field.type) for column, field in zip(columns, fields, strict=True)]
        with pa.ipc.new_stream(str(folder / file), schema) as stream:
            for batch in pa.table(arrays, schema).to_batches(5):
                stream.write_batch(batch)
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    state = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    return folder


def save_dict(folder: Path, parts: dict[str, Rows], **options: Any) -> Path:
    """Write as `DatasetDict.save_to_disk` does."""
    for name, part in parts.items():
        save(folder / name, part, **options)
    folder.mkdir(exist_ok=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return folder
