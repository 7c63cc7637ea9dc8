"""What is opened is what the card says, or an error in one line."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import random_pixels, save_dataset

from ptqflow.core.errors import ArtifactError
from ptqflow.data.dataset import SPLITS, open_dataset

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
    assert message.endswith("run `dvc repro`")


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
    assert "the card says images of shape (6, 8, 8, 3); run `dvc repro`" in message


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
    (OUT / "card.json").write_text(card.replace('"format_version": 2', '"format_version": 3'))
    assert "card.json: format_version: Input should be 2; run `dvc repro`" in refusal()


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
