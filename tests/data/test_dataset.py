"""What is opened is what the card says, or an error in one line."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import random_pixels, save_dataset

from ptqflow.core.artifacts import REMEDY
from ptqflow.core.errors import ArtifactError
from ptqflow.data.dataset import SPLITS, count_trained_on, open_dataset

OUT = Path("dataset")


@pytest.fixture(autouse=True)
def _saved() -> None:
    save_dataset(OUT, {split: (random_pixels(6, 8, 8, 3), np.arange(6) % 3) for split in SPLITS})


def refusal() -> str:
    with pytest.raises(ArtifactError) as caught:
        open_dataset(OUT)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_are_mapped_and_cannot_be_changed() -> None:
    dataset = open_dataset(OUT)
    for split in (dataset.train, dataset.val, dataset.test):
        assert len(split) == 6
        for array in (split.images, split.labels, split.digests):
            assert isinstance(array, np.memmap)
            assert not array.flags.writeable


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["images", "labels", "digests"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY", b"no array"])
def test_a_file_that_is_missing_or_no_array_is_reported(split: str, part: str, content: bytes | None) -> None:
    file = OUT / f"{split}_{part}.npy"
    file.unlink() if content is None else file.write_bytes(content)
    message = refusal()
    assert f"dataset: the {split} split cannot be read" in message
    assert message.endswith(REMEDY)


@pytest.mark.parametrize("part", ["images", "labels", "digests"])
def test_a_truncated_array_is_reported(part: str) -> None:
    file = OUT / f"val_{part}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert "dataset: the val split cannot be read" in refusal()


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("images", np.zeros((5, 8, 8, 3), np.uint8)),
        ("images", np.zeros((6, 9, 9, 3), np.uint8)),
        ("images", np.zeros((6, 8, 8), np.uint8)),
        ("labels", np.zeros(5, np.int64)),
        ("digests", np.zeros(7, "V16")),
    ],
)
def test_an_array_of_another_shape_is_reported(part: str, array: np.ndarray) -> None:
    np.save(OUT / f"train_{part}.npy", array)
    message = refusal()
    assert "dataset: train holds images of shape (" in message
    assert f"{len(array)} {part}" in message or f"shape {array.shape}" in message
    assert "the card says images of shape (6, 8, 8, 3); " in message


def test_pickled_objects_are_never_loaded() -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path("sprung"),)  # type: ignore[return-value]

    np.save(OUT / "train_labels.npy", np.array([Trap()] * 6, dtype=object), allow_pickle=True)
    assert "dataset: the train split cannot be read" in refusal()
    assert not Path("sprung").exists()


def test_a_missing_card_is_reported() -> None:
    (OUT / "card.json").unlink()
    assert refusal() == "dataset/card.json is missing: run `dvc repro`"


def test_a_card_of_another_version_is_reported() -> None:
    card = (OUT / "card.json").read_text()
    (OUT / "card.json").write_text(card.replace('"format_version": 4', '"format_version": 3'))
    assert "card.json: format_version: Input should be 4; " in refusal()


def flip(file: Path, byte: int) -> None:
    """Flip a bit and leave size and times, as a bad disk does."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["labels", "digests"])
def test_one_changed_bit_of_a_label_or_a_digest_is_reported_when_the_data_set_is_opened(split: str, part: str) -> None:
    flip(OUT / f"{split}_{part}.npy", -1)
    assert "dataset: the card, labels or digests are not those that `fetch` stored" in refusal()


def test_a_changed_figure_of_the_card_is_reported() -> None:
    card = (OUT / "card.json").read_text()
    (OUT / "card.json").write_text(card.replace('"horizontal_flip": true', '"horizontal_flip": false'))
    assert (OUT / "card.json").read_text() != card
    assert "dataset: the card, labels or digests are not those that `fetch` stored" in refusal()


@pytest.mark.parametrize("number", range(6))
def test_one_changed_bit_of_an_image_is_reported_with_its_split_and_number_when_it_is_read(number: int) -> None:
    flip(OUT / "test_images.npy", -1 - 192 * (5 - number))
    test = open_dataset(OUT).test
    intact = np.array([row for row in range(6) if row != number])

    assert np.array_equal(test.read(intact), test.images[intact])
    for rows in (slice(None), slice(number, number + 1), np.array([number, number])):
        with pytest.raises(ArtifactError, match=f"dataset: test image {number} is not the one that `fetch` stored; "):
            test.read(rows)


def test_the_image_that_an_error_names_is_counted_in_the_stored_split_also_from_a_part_of_it() -> None:
    flip(OUT / "val_images.npy", -1 - 192)
    part = open_dataset(OUT).val[2:][::2]
    with pytest.raises(ArtifactError, match="val image 4 is not"):
        part.read()


def test_an_image_is_compared_once_in_a_process_also_through_parts_of_its_split() -> None:
    train = open_dataset(OUT).train
    train[2:4].read()
    assert train.checked is not None
    assert train.checked.tolist() == [False, False, True, True, False, False]


def test_what_is_read_is_a_copy_of_the_rows_in_their_order() -> None:
    train = open_dataset(OUT).train
    rows = np.array([4, 0, 4])
    found = train.read(rows)
    assert np.array_equal(found, train.images[rows])
    assert not isinstance(found, np.memmap)
    assert found.flags.writeable
    assert train.read(slice(0)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("array", [np.zeros((6, 8, 8, 3), np.int8), np.zeros((6, 8, 8, 3), np.uint8, order="F")])
def test_images_of_another_type_or_order_are_reported(array: np.ndarray) -> None:
    np.save(OUT / "train_images.npy", array)
    assert "dataset: train holds images of" in refusal()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel reports the memory in /proc")
def test_what_is_read_of_a_split_does_not_stay_in_memory() -> None:
    def mapped() -> int:
        return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]

    images = random_pixels(300, 256, 256, 3)
    labels = np.arange(300) % 3
    save_dataset(Path("large"), dict.fromkeys(SPLITS, (images, labels)))
    split = open_dataset(Path("large")).train
    before = mapped()
    for start in range(0, 300, 50):
        assert (split.read(slice(start, start + 50)) == images[start : start + 50]).all()
    assert (split.read(np.array([299, 3])) == images[[299, 3]]).all()
    assert mapped() - before < images.nbytes / 10


def test_images_of_val_and_test_that_are_in_train_are_counted() -> None:
    pixels = random_pixels(6, 8, 8, 3)
    others = random_pixels(6, 8, 8, 3, seed=1)
    others[[1, 4]] = pixels[[0, 5]]
    splits = {"train": pixels, "val": random_pixels(6, 8, 8, 3, seed=2), "test": others}
    save_dataset(OUT, {split: (images, np.arange(6) % 3) for split, images in splits.items()})
    assert count_trained_on(open_dataset(OUT)) == {"val": 0, "test": 2}
