"""Images and labels in a folder that `save_to_disk` of Hugging Face's `datasets` wrote.

Its files are read with pyarrow alone: Arrow streams, in which the images lie as encoded files, beside two of JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from ptqflow.core.artifacts import read_regular
from ptqflow.core.errors import DataError, one_line
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import largest_file
from ptqflow.fetch.arrow import import_pyarrow, is_text, open_stream
from ptqflow.fetch.image_files import decode_file
from ptqflow.fetch.layout import ORDER, SPLITS, Layout, problems_of_splits
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Decode, Rows, Source
from ptqflow.fetch.system_files import system_name

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MOST_JSON = 1 << 25  # bytes
_SAVE_AGAIN = "save the data set again"
_TEXT_LABELS = ("label", "labels")  # names of a column of strings that are labels

_Model = TypeVar("_Model", bound=BaseModel)
_FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")]  # beside the JSON, nowhere else


class _Splits(BaseModel):
    splits: list[_FileName]


class _File(BaseModel):
    filename: _FileName


class _State(BaseModel):
    files: list[_File] = Field(alias="_data_files")


class _Info(BaseModel):
    features: dict[str, Any]


@dataclass(frozen=True)
class _Part:
    """The images and labels of one saved `Dataset`."""

    folder: Path
    title: str
    """What it is called after a number of a row; empty if it is all there is."""
    names: list[str]
    """Of the classes; empty where labels are text."""
    images: list[Any]
    """Arrays of pyarrow, one after another: structs of the bytes of a file and its path."""
    labels: list[str | int | None]

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, those of text sorted."""
        return self.names or sorted(set(self.named_labels))

    @property
    def named_labels(self) -> Iterator[str]:
        """The name of the class of each row, none of which lacks one."""
        return (self.names[label] if isinstance(label, int) else str(label) for label in self.labels)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(arrays + 1,), the row at which each array of images starts."""
        return np.cumsum([0, *map(len, self.images)], dtype=np.int64)

    def read(self, row: int) -> Any:
        """Return the bytes of an image, as a buffer that is read from the disk when it is used."""
        array = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.images[array].field("bytes")[row - int(self.starts[array])].as_buffer()


def load_hugging_face(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Open a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Each split has one column of type Image, and one of type ClassLabel or, if there is none, one of strings that is
    called `label` or `labels`. The names of splits are those of `SPLITS`, in upper or lower case; a `Dataset` alone is
    train. What is missing is drawn. The order of the classes is that of the ClassLabel; strings are sorted.

    Raises:
        DataError: pyarrow is not installed, the folder or a file in it is no such thing; or, all in one error, splits
            of other names, twice or without train, rows without image or label, images whose files lie elsewhere or
            are larger than `data.max_megapixels` allows, labels that are no class, fewer than two classes, or one that
            is empty or that train lacks.
    """
    import_pyarrow("data.name=hugging_face")
    folder = _find_folder(root)
    found, problems = _find_parts(folder)
    parts = {split: _open_part(path, title) for split, (path, title) in found.items()}
    problems += _problems(parts, params)
    if problems:
        raise DataError(f"{folder.resolve()}: {'; '.join(problems)}")
    layout = _lay_out(parts)
    read = partial(_read, list(parts.values()))
    return layout.source("datasets.save_to_disk of Hugging Face", read, params, preprocessing, 0)


def _find_parts(folder: Path) -> tuple[dict[str, tuple[Path, str]], list[str]]:
    """Return folder and title of each split, train first, and what is wrong with the names of splits."""
    if not (folder / _DICT).exists():
        return {"train": (folder, "")}, []
    found: dict[str, tuple[Path, str]] = {}
    problems = []
    for name in _read_json(folder / _DICT, _Splits).splits:
        split = SPLITS.get(name.casefold())
        if split is None:
            problems.append(f"the split {name} is none of {', '.join(ORDER)}; leave it out and save again")
        elif split in found:
            problems.append(f"the split {name} is a second {split}; leave one out and save again")
        else:
            found[split] = (folder / name, f" of {name}")
    if "train" not in found:
        held = f"but {', '.join(found)}; to have one split divided, save it alone" if found else "nor another"
        problems.append(f"there is no split train, from which classes and calibration come, {held}")
    return {split: found[split] for split in ORDER if split in found}, problems


def _find_folder(root: Path) -> Path:
    """Return the folder itself, or the one in it that is alone there, or in that one."""
    folder = root
    while folder.is_dir():
        if (folder / _DICT).exists() or (folder / _STATE).exists():
            return folder
        within = [path for path in sorted(folder.iterdir()) if path.is_dir() and not system_name(path.name)]
        if len(within) != 1:
            break
        [folder] = within
    what = f"holds neither {_DICT} nor {_STATE}" if root.is_dir() else "is no folder; unpack an archive"
    raise DataError(
        f"{root.resolve()} {what}; data.name=hugging_face needs a folder that save_to_disk of datasets wrote"
    )


def _read_json(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(read_regular(path, _MOST_JSON, _SAVE_AGAIN))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {_SAVE_AGAIN}") from None
    except ValidationError as error:
        [first, *_] = error.errors()
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where + ': ' if where else ''}{first['msg']}; {_SAVE_AGAIN}") from None


def _open_part(folder: Path, title: str) -> _Part:
    import pyarrow

    features = _read_json(folder / _INFO, _Info).features
    image, label = _find_columns(folder, features)
    names = features[label]["names"] if features[label]["_type"] == "ClassLabel" else []
    images: list[Any] = []
    labels: list[str | int | None] = []
    for path in [folder / file.filename for file in _read_json(folder / _STATE, _State).files]:
        try:
            for batch in _batches(path, image, label, bool(names)):
                images.append(batch[image])
                labels += batch[label].to_pylist()
        # A ValueError is a name of a column that is not UTF-8, a LookupError one that is there twice.
        except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"{path}: {one_line(error)}; save the data set again") from None
    return _Part(folder, title, names, images, labels)


def _find_columns(folder: Path, features: Mapping[str, Any]) -> tuple[str, str]:
    def of_type(*kinds: str) -> list[str]:
        return [name for name, spec in features.items() if isinstance(spec, dict) and spec.get("_type") in kinds]

    texts = [name for name in of_type("Value") if name in _TEXT_LABELS and "string" in str(features[name].get("dtype"))]
    found = {"images (type Image)": of_type("Image"), "labels (type ClassLabel)": of_type("ClassLabel") or texts}
    problems = []
    for what, columns in found.items():
        if len(columns) > 1:
            problems.append(f"{len(columns)} columns of {what}: {', '.join(columns)}; remove all but one")
    if not found["images (type Image)"]:
        problems.append("no column of images (type Image); cast_column(…, datasets.Image()) makes one")
    if not found["labels (type ClassLabel)"]:
        problems.append(
            "no column of labels: type ClassLabel, which class_encode_column makes, or strings called label; for "
            "images without labels, save them as files and set data.name=photos"
        )
    for name in of_type("ClassLabel"):
        names = features[name].get("names")
        if not isinstance(names, list) or not names or not all(isinstance(text, str) for text in names):
            problems.append(f"no names of classes in the ClassLabel {name}")
    if problems:
        raise DataError(f"{folder.resolve()} has {' and '.join(problems)}")
    ((image,), (label,)) = found.values()
    return image, label


def _batches(path: Path, image: str, label: str, is_number: bool) -> Iterator[Any]:
    """Yield the two columns of an Arrow stream, some rows at a time, mapped into memory and with valid offsets."""
    from pyarrow import types

    schema, *batches = open_stream(path)
    if missing := {image, label} - set(schema.names):
        raise DataError(f"{path} has no column {sorted(missing)[0]}, which {_INFO} lists; save the data set again")
    kinds = [schema.field(name).type for name in (image, label)]
    if not _is_file(kinds[0]) or not (types.is_integer if is_number else is_text)(kinds[1]):
        raise DataError(
            f"{path}: the columns {image} and {label} have the types {kinds[0]} and {kinds[1]}, which "
            f"are not those of {_INFO}; save the data set again"
        )
    for batch in batches:
        columns = batch.select([image, label])
        columns.validate(full=True)
        yield columns


def _is_file(kind: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(types.is_binary(content) or types.is_large_binary(content))


def _problems(parts: Mapping[str, _Part], params: DataParams) -> list[str]:
    """Return all that is wrong with the rows, else with the classes of the splits."""
    problems = [problem for part in parts.values() for problem in _problems_of_rows(part, params)]
    train = parts.get("train")
    if train is None:
        return problems
    for split, part in parts.items():
        if part.names != train.names:
            problems.append(f"{split} has other names of classes than train, or in another order")
    if problems:
        return problems
    filled = {split: set(part.named_labels) for split, part in parts.items()}
    expected = filled | {"train": set(train.classes)}
    few = f"train has {len(train.classes)} classes, and a classifier needs two or more"
    return [*([few] if len(train.classes) < 2 else []), *problems_of_splits(train.classes, expected, filled)]


def _lay_out(parts: Mapping[str, _Part]) -> Layout[int]:
    classes = parts["train"].classes
    index_of = {name: index for index, name in enumerate(classes)}
    rows, labels, first = {}, {}, 0
    for split, part in parts.items():
        rows[split] = list(range(first, first + len(part.labels)))
        labels[split] = np.array(
            part.labels if part.names else [index_of[name] for name in part.named_labels], np.int64
        )
        first += len(part.labels)
    return Layout(classes, rows, labels)


def _problems_of_rows(part: _Part, params: DataParams) -> Iterator[str]:
    """Yield each kind of mistake once, with the first row that has it and how many have."""
    most = largest_file(params.max_megapixels)
    sizes = np.concatenate([np.zeros(0, np.int64), *map(_sizes, part.images)])
    labels = part.labels
    if part.names:
        numbers = np.array([-1 if label is None else label for label in labels], np.int64)
        without, unknown = numbers == -1, (numbers < -1) | (numbers >= len(part.names))
    else:
        without, unknown = np.array([not label for label in labels], bool), np.zeros(len(labels), bool)
    too_large = f"has an image of more bytes than the {most:,} that data.max_megapixels={params.max_megapixels} allows"
    found = {
        "has no bytes of an image, but null or the path of a file that DVC would not hash; load and save the data set "
        "with a current version of datasets, which stores them": sizes < 0,
        too_large: sizes > most,
        "has no label, which is null, empty or -1; filter such rows out, or leave the split out": without,
        f"has a label that is none of the {len(part.names)} classes": unknown,
    }
    if not len(labels):
        yield f"there are no rows{part.title}"
    for kind, is_wrong in found.items():
        if rows := np.flatnonzero(is_wrong).tolist():
            more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
            yield f"row {rows[0]}{part.title}{more} {kind}"


def _sizes(images: Any) -> NDArray[np.int64]:
    """Return how many bytes each image has, (N,); -1 for none."""
    from pyarrow import compute

    content = images.field("bytes")
    lengths = compute.if_else(images.is_valid(), compute.binary_length(content), None)
    return np.asarray(lengths.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False))


def _read(
    parts: Sequence[_Part], rows: Sequence[int], params: DataParams, preprocessing: Preprocessing, wanted: Rows
) -> Iterator[tuple[Rows, Decode]]:
    starts = np.cumsum([0, *(len(part.labels) for part in parts)])
    for number in wanted.tolist():
        place = int(np.searchsorted(starts, rows[number], "right")) - 1
        part, row = parts[place], rows[number] - int(starts[place])
        yield np.array([number]), partial(_decode, part, row, params, preprocessing)


def _decode(part: _Part, row: int, params: DataParams, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    where = f"{part.folder.resolve()}: row {row}{part.title}"
    return decode_file(where, part.read(row).to_pybytes(), params, preprocessing)
