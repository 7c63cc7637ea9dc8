"""Archives of images, tables of labels, Arrow files and torchvision's own with changed bytes."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from labelled_files import TABLES, rows, save_dict
from mutation import mutate
from samples import ARCHIVE_WRITERS, data_params, fetch, image_files, write_fashion_mnist, write_folder

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import open_dataset

pytestmark = pytest.mark.faults
Require = Callable[[Path, Path, str], None]


@pytest.fixture
def require_a_data_set_or_one_line(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> Require:
    """Return a function that changes bytes of a file, which is what is given or in it, and fetches the data set."""

    def require(given: Path, file: Path, name: str) -> None:
        file.write_bytes(mutate(file.read_bytes(), random_))
        params = data_params(name=name, on_bad_image=random_.choice(["error", "skip"]), val_fraction=0.5)
        refusal = None
        try:
            fetch(params, given, tmp_path / "dataset")
        except DataError as error:
            refusal = str(error)
        if refusal is None:
            assert len(open_dataset(tmp_path / "dataset").test) > 0
        else:
            assert "\n" not in refusal
            assert list(tmp_path.iterdir()) == [given]
        record_property("outcome", "read" if refusal is None else "one line")
        assert capfd.readouterr().err == ""

    return require


def test_mutated_archives(random_: random.Random, require_a_data_set_or_one_line: Require, tmp_path: Path) -> None:
    kind = random_.choice(sorted(ARCHIVE_WRITERS))
    archive = ARCHIVE_WRITERS[kind](tmp_path / f"images.{kind}", image_files(4, 2))
    require_a_data_set_or_one_line(archive, archive, "image_folder")


def test_mutated_tables(random_: random.Random, require_a_data_set_or_one_line: Require, tmp_path: Path) -> None:
    images, name = image_files(4, 2), random_.choice(sorted(TABLES))
    table = TABLES[name]([(path, *path.split("/")[1::-1]) for path in images])
    folder = write_folder(tmp_path / "images", images | {name: table})
    require_a_data_set_or_one_line(folder, folder / name, "image_list")


def test_mutated_arrow_files(random_: random.Random, require_a_data_set_or_one_line: Require, tmp_path: Path) -> None:
    folder = save_dict(tmp_path / "saved", {"train": rows(8), "test": rows(4, 8)})
    file = random_.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    require_a_data_set_or_one_line(folder, file, "hugging_face")


def test_mutated_idx_files(random_: random.Random, require_a_data_set_or_one_line: Require, tmp_path: Path) -> None:
    raw = write_fashion_mnist(tmp_path / "data")
    require_a_data_set_or_one_line(tmp_path / "data", random_.choice(sorted(raw.iterdir())), "fashion_mnist")
