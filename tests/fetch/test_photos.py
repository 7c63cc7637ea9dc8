from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import ARCHIVE_WRITERS, WRITERS, data_params, encode, fitted, png, write_folder

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import SPLITS, Dataset, open_dataset
from ptqflow.fetch.decoding import decode_image
from ptqflow.fetch.fetch import fetch

pytestmark = pytest.mark.usefixtures("_in_tmp_path")


@pytest.fixture
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


PHOTOS = {
    name: png(seed) for seed, name in enumerate(f"{folder}{i}.png" for folder in ("", "a/", "a/b/") for i in range(10))
}


def fetched(root: Path, **changes: object) -> Dataset:
    fetch(data_params(name="photos", **changes), fitted(16), root, Path("dataset"))
    return open_dataset(Path("dataset"))


@pytest.mark.parametrize("kind", WRITERS)
def test_thirty_photos_in_any_folders_are_divided_and_have_no_labels(kind: str) -> None:
    dataset = fetched(WRITERS[kind](Path("photos"), PHOTOS), test_fraction=0.5, val_fraction=0.2)

    assert (dataset.card.labelled, dataset.card.classes) == (False, ())
    assert dataset.card.sizes == {"train": 12, "val": 3, "test": 15}
    assert [getattr(dataset, split).labels for split in SPLITS] == [None] * 3
    with pytest.raises(DataError, match=r"test has no labels; set data\.name"):
        _ = dataset.test.known_labels
    stored = np.concatenate([getattr(dataset, split).read() for split in SPLITS])
    expected = {decode_image(data, fitted(16)).tobytes() for data in PHOTOS.values()}
    assert {image.tobytes() for image in stored} == expected


def test_equal_photos_make_equal_bytes_and_the_seed_draws() -> None:
    root = write_folder(Path("photos"), PHOTOS)
    first = fetched(root).card.sha256
    assert fetched(root).card.sha256 == first != fetched(root, seed=1).card.sha256


def test_other_files_are_left_out_and_a_broken_photo_is_an_error() -> None:
    root = write_folder(Path("photos"), PHOTOS | {"notes.txt": b"", "a/.DS_Store": b"", "a/clip.mov": b""})
    assert fetched(root).card.ignored == 3
    write_folder(root, {"a/broken.jpg": b"broken"})
    with pytest.raises(DataError, match=r"a/broken\.jpg is no readable image \(.*on_bad_image=skip"):
        fetched(root)
    assert fetched(root, on_bad_image="skip").card.skipped == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_photos_are_refused_in_one_line(count: int) -> None:
    root = write_folder(Path("photos"), {f"{i}.png": png(i) for i in range(count)})
    with pytest.raises(DataError, match=f"holds {count} images, and 4 are the fewest that can be divided"):
        fetched(root)


def test_photos_of_one_colour_have_a_normalization_that_divides_by_no_zero() -> None:
    grey = encode(Image.fromarray(np.full((20, 20, 3), 90, np.uint8)))
    dataset = fetched(write_folder(Path("photos"), {f"{i}.png": grey for i in range(10)}))
    assert min(dataset.card.normalization.std) > 0


def test_a_limit_draws_photos() -> None:
    dataset = fetched(ARCHIVE_WRITERS["zip"](Path("photos.zip"), PHOTOS), limit=10)
    assert sum(dataset.card.sizes.values()) == 16, "10 of train with val, the 6 of test"
