from itertools import product
from pathlib import Path

import pytest
from labelled_files import TABLES, table
from samples import WRITERS, data_params, fitted, image_files, png, read_pool, write_folder

from ptqflow.core.errors import DataError
from ptqflow.fetch.image_folder import load_image_folder
from ptqflow.fetch.image_list import load_image_list
from ptqflow.fetch.splitting import Source

FILES = {f"images/{i:02}.png": png(i) for i in range(24)}
LABELS = ["cat" if i % 2 else "dog" for i in range(24)]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(*splits: str) -> list[tuple[str, ...]]:
    """Return a row for each file, the splits in turn."""
    names = zip(FILES, LABELS, strict=True)
    return [(name, label, *splits[i // 2 % len(splits) :][:1]) for i, (name, label) in enumerate(names)]


def load(files: dict[str, bytes], kind: str = "folder", **changes: object) -> Source:
    return load_image_list(WRITERS[kind](Path("given"), files), data_params(name="image_list", **changes), fitted(16))


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(DataError) as error:
        load(files)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "around", "name"), [*product(WRITERS, ["", "birds/"], ["labels.csv"]), ("zip", "birds/", "labels.parquet")]
)
def test_a_list_is_the_folders_that_it_could_be(kind: str, around: str, name: str) -> None:
    splits = {"Train": "train", "validation": "val", "TEST": "test"}
    listed = rows(*splits)
    files = {around + image: data for image, data in FILES.items()} | {around + name: TABLES[name](listed)}
    folders = {f"{splits[split]}/{label}/{Path(image).name}": FILES[image] for image, label, split in listed}
    found = load(files, kind)
    expected = load_image_folder(write_folder(Path("folders"), folders), data_params(), fitted(16))
    assert found.classes == expected.classes == ("cat", "dog")
    for split in ("train", "val", "test"):
        one, other = getattr(found, split), getattr(expected, split)
        pixels = [
            sorted(zip(pool.labels.tolist(), map(bytes, read_pool(source, pool)), strict=True))
            for source, pool in ((found, one), (expected, other))
        ]
        assert pixels[0] == pixels[1]


def test_without_splits_all_is_train_from_which_the_others_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    files = FILES | {"labels.csv": table([row[:2] for row in rows("train")], ("Path", " label"))}
    source = load(files | {"images/other.png": png(99), "notes.txt": b""})
    assert (len(source.train), source.val, source.test, source.ignored) == (24, None, None, 2)
    assert ": 2 files that labels.csv does not name are left out" in capsys.readouterr().out


def test_a_table_with_a_byte_order_mark_is_read() -> None:
    assert load(FILES | {"labels.csv": b"\xef\xbb\xbf" + table(rows("train", "test"))}).classes == ("cat", "dog")


@pytest.mark.parametrize(("name", "unit", "first"), [("labels.csv", "line", 2), ("labels.parquet", "row", 1)])
def test_all_mistakes_of_a_table_are_reported_at_once_each_with_its_first_row(name: str, unit: str, first: int) -> None:
    listed = [*rows("train", "test"), ("images/00.png", "cat", "train"), ("images/no.png", "cat", "train")]
    listed += [("images/nothing.png", "", "train"), ("images/01.png", "dog", "holdout")]
    message = refusal(FILES | {name: TABLES[name](listed)})
    assert f"{unit} {first + 24} (images/00.png, cat, train) has a file that another {unit} has" in message
    assert f"{unit} {first + 25} (images/no.png, cat, train) has no file, and so 1 more" in message
    assert f"{unit} {first + 26} (images/nothing.png, , train) has no label" in message
    assert f"{unit} {first + 27} (images/01.png, dog, holdout) has a split other than train, val, test" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (FILES, "holds no CSV or parquet file; data.name=image_list needs one, with columns path, label and split"),
        (FILES | {"a.csv": b"", "b.csv": b""}, "holds 2 CSV or parquet files, such as a.csv"),
        (FILES | {"a.csv": b""}, "a.csv has the columns none; path and label are missing"),
        (FILES | {"a.csv": b"file,label\n"}, "a.csv has the columns file, label; path is missing"),
        (FILES | {"a.csv": b"path,label\n"}, "a.csv: there are no rows"),
        (FILES | {"a.csv": b"path,label\n\xff,x\n"}, "a.csv is no CSV table in UTF-8"),
        (FILES | {"a.csv": table([(name, "cat") for name in FILES], ("path", "label"))}, "train has 1 classes"),
        (
            FILES | {"a.csv": table([*rows("train")[:23], ("images/23.png", "owl", "test")])},
            "test/ has the class 'owl', which train/ does not have",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(files: dict[str, bytes], words: str) -> None:
    assert words in refusal(files)


def test_a_folder_without_a_table_is_no_list() -> None:
    assert "holds no CSV or parquet file" in refusal(image_files())
