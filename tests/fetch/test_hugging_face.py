"""Folders that `save_to_disk` wrote are the images and labels that were saved.

`labelled_files.save` writes what `datasets` writes, with pyarrow; where that package is installed, which is not in the
development environment because it brings pandas, a test compares both.
"""

import json
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from labelled_files import CLASS_LABEL, FILE, NAMES, TEXT, rows, save, save_dict
from PIL import Image
from samples import bomb, data_params, encode, fitted, random_pixels, read_pool, write_folder

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import open_dataset
from ptqflow.fetch.fetch import fetch
from ptqflow.fetch.hugging_face import load_hugging_face
from ptqflow.fetch.image_folder import load_image_folder
from ptqflow.fetch.splitting import Source

pytestmark = pytest.mark.usefixtures("_in_tmp_path")
GIVEN = Path("given")


@pytest.fixture
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(folder: Path = GIVEN, **changes: object) -> Source:
    return load_hugging_face(folder, data_params(name="hugging_face", **changes), fitted(16))


def refusal(folder: Path = GIVEN, **changes: object) -> str:
    with pytest.raises(DataError) as error:
        pairs(load(folder, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def pairs(source: Source) -> dict[str, list[tuple[str, bytes]]]:
    """Return class and pixels of each image of each split, sorted."""
    return {
        split: sorted(
            (source.classes[label], image.tobytes())
            for label, image in zip(pool.labels, read_pool(source, pool), strict=True)
        )
        for split in ("train", "val", "test")
        for pool in [getattr(source, split)]
        if pool
    }


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("TRAIN", "dev", "Testing"), ("test", "train")])
@pytest.mark.parametrize("around", ["", "birds/v1"])
@pytest.mark.parametrize("label", [CLASS_LABEL, TEXT], ids=["ClassLabel", "string"])
def test_splits_are_the_folders_that_they_could_be(
    names: tuple[str, ...], around: str, label: dict[str, object]
) -> None:
    parts = {name: rows(12, 20 * i) for i, name in enumerate(names)}
    files = {
        f"{name.replace('dev', 'val')}/{NAMES[number]}/{i}.png": image["bytes"]
        for name, (images, labels) in parts.items()
        for i, (image, number) in enumerate(zip(images, labels, strict=True))
    }
    saved = parts if label is CLASS_LABEL else {n: (images, [NAMES[i] for i in k]) for n, (images, k) in parts.items()}
    save_dict(GIVEN / around, saved, label=label, shards=3)
    source = load()
    assert source.classes == (("dog", "cat") if label is CLASS_LABEL else ("cat", "dog"))
    folder = load_image_folder(write_folder(Path("folders"), files), data_params(), fitted(16))
    assert pairs(source) == pairs(folder)


def test_a_dataset_alone_is_train_from_which_the_others_are_drawn() -> None:
    source = load(save(GIVEN, rows(40), shards=2))
    assert (len(source.train), source.val, source.test) == (40, None, None)


def test_images_are_stored_with_their_labels_and_the_classes_in_their_order() -> None:
    save_dict(GIVEN, {"test": rows(6), "train": rows(20, 6), "validation": rows(4, 26)})
    params = data_params(name="hugging_face")
    fetch(params, fitted(16), GIVEN, Path("first"))
    fetch(params, fitted(16), GIVEN, Path("again"))
    dataset = open_dataset(Path("first"))
    assert dataset.card.classes == ("dog", "cat")
    assert dataset.card.sizes == {"train": 20, "val": 4, "test": 6}
    assert dataset.card.sha256 == open_dataset(Path("again")).card.sha256
    number = {random_pixels(16, 16, 3, seed=seed).tobytes(): seed for seed in range(30)}
    for split in (dataset.train, dataset.val, dataset.test):
        assert [number[image.tobytes()] % 2 for image in split.read()] == split.known_labels.tolist()


def test_a_broken_image_is_named_by_its_row_and_may_be_skipped() -> None:
    images, labels = rows(12)
    images[7] = {"bytes": b"broken", "path": "7.png"}
    save_dict(GIVEN, {"train": rows(12), "validation": (images, labels)})
    assert f"{(GIVEN / 'validation').resolve()}: row 7 of validation is no readable image (" in refusal()
    source = load(on_bad_image="skip")
    assert len(read_pool(source, source.val)) == 11


def test_an_image_of_too_many_pixels_is_refused() -> None:
    images, labels = rows(8)
    images[3] = {"bytes": bomb(), "path": None}
    save(GIVEN, (images, labels))
    assert "row 3 is no readable image (" in refusal()


def test_all_mistakes_are_reported_at_once_each_with_its_first_row() -> None:
    images, labels = rows(12)
    images[2], images[4], images[5] = None, {"bytes": None, "path": "/home/me/4.png"}, {"bytes": None, "path": None}
    images[6] = {"bytes": bytes(4_000_001), "path": None}
    labels[7:12] = [-1, None, 2, -7, 99]
    save_dict(GIVEN, {"train": (images, labels), "valid": rows(4), "dev": rows(4), "unsupervised": rows(2)})
    save(GIVEN / "valid", rows(4), label=CLASS_LABEL | {"names": ["cat", "dog"]})
    message = refusal(max_megapixels=1)
    for words in (
        "the split dev is a second val",
        "the split unsupervised is none of train, val, test",
        "row 2 of train (and 2 more) has no bytes of an image, but null or the path of a file that DVC would not hash",
        "row 6 of train has an image of more bytes than the 4,000,000 that data.max_megapixels=1 allows",
        "row 7 of train (and 1 more) has no label",
        "row 9 of train (and 2 more) has a label that is none of the 2 classes",
        "val has other names of classes than train, or in another order",
    ):
        assert words in message


def test_a_label_that_is_an_empty_text_is_none() -> None:
    images, _ = rows(4)
    save(GIVEN, (images, ["a", "", None, "b"]), label=TEXT)
    assert "row 1 (and 1 more) has no label" in refusal()


def change(name: str, **values: object) -> None:
    path = GIVEN / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


Change = Callable[[], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: (GIVEN / "state.json").unlink(), "holds neither dataset_dict.json nor state.json"),
        (lambda: (GIVEN / "dataset_info.json").unlink(), "dataset_info.json is missing; save"),
        (lambda: (GIVEN / "dataset_info.json").write_text("{"), "dataset_info.json: Invalid JSON"),
        (lambda: change("dataset_info.json", features=None), "dataset_info.json: features: Input should be"),
        (lambda: change("state.json", _data_files=[{"filename": "../x.arrow"}]), "state.json: _data_files.0.filename:"),
        (lambda: change("state.json", _data_files=[{"filename": ".."}]), "state.json: _data_files.0.filename:"),
        (lambda: change("state.json", _data_files=[{"filename": "x.arrow"}]), "Failed to open local file"),
        (lambda: change("state.json", _data_files=[]), "there are no rows"),
        (lambda: (GIVEN / "data-00000-of-00001.arrow").write_bytes(b"ARROW1"), "of-00001.arrow: Expected to read"),
        (lambda: save(GIVEN, rows(8), other={"_type": "Image"}), "2 columns of images (type Image): image, other"),
        (lambda: save(GIVEN, rows(8), fine=CLASS_LABEL), "2 columns of labels (type ClassLabel): label, fine; remove"),
        (
            lambda: save(GIVEN, rows(8), label=CLASS_LABEL | {"names": []}),
            "no names of classes in the ClassLabel label",
        ),
        (lambda: change("dataset_info.json", features={"image": {"_type": "Image"}}), "set data.name=photos"),
        (lambda: change("dataset_info.json", features={"label": CLASS_LABEL}), "no column of images (type Image)"),
        (
            lambda: change("dataset_info.json", features={"img": {"_type": "Image"}, "label": CLASS_LABEL}),
            "has no column img, which dataset_info.json lists",
        ),
        (
            lambda: change("dataset_info.json", features={"label": {"_type": "Image"}, "image": CLASS_LABEL}),
            "the columns label and image have the types int64 and struct<",
        ),
        (lambda: save(GIVEN, (rows(8)[0], [0] * 8)), "the class 'cat' has no images in train"),
        (lambda: save(GIVEN, (rows(8)[0], ["a"] * 8), label=TEXT), "train has 1 classes, and a classifier needs two"),
        (lambda: save_dict(GIVEN, {"test": rows(8)}), "there is no split train, from which classes"),
        (lambda: save_dict(GIVEN, {}), "there is no split train"),
    ],
)
def test_a_folder_that_is_no_such_data_set_is_one_line(spoil: Change, words: str) -> None:
    save(GIVEN, rows(8))
    spoil()
    assert words in refusal()


def test_an_archive_or_nothing_is_refused() -> None:
    GIVEN.write_bytes(b"PK")
    assert "given is no folder; unpack an archive; data.name=hugging_face needs a folder" in refusal()


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    save(GIVEN, rows(8))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"^data\.name=hugging_face needs pyarrow, which is not installed: `pip install"
    ):
        load()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("labels", [pa.array(["a" * 10_000] * 8), pa.array(["a" * 10_000] * 8).dictionary_encode()])
def test_a_compressed_file_is_refused_before_it_takes_memory(compression: str, labels: pa.Array) -> None:
    file = save(GIVEN, (rows(8)[0], ["a"] * 8), label=TEXT) / "data-00000-of-00001.arrow"
    batch = pa.record_batch({"image": pa.array(rows(8)[0], FILE), "label": labels})
    with pa.ipc.new_stream(str(file), batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_batch(batch)
    before = pa.total_allocated_bytes()
    assert "00001.arrow is compressed Arrow, which would have to fit into memory; write it without" in refusal()
    assert pa.total_allocated_bytes() - before < 10_000


def test_damaged_files_are_read_or_an_error_and_never_end_the_process() -> None:
    file = save(GIVEN, rows(8)) / "data-00000-of-00001.arrow"
    whole, draw = file.read_bytes(), random.Random(0)
    headers = [i for i in range(len(whole)) if i < 1500 or i > len(whole) - 300]
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3])):
            damaged[draw.choice(headers)] = draw.randrange(256)
        file.unlink()  # the old file may still be mapped
        file.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        with suppress(DataError):
            source = load(on_bad_image="skip")
            for _, decode in source.read(source.train.rows):
                decode()


def test_what_is_written_here_is_what_datasets_writes() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    images, labels = rows(12)
    pictures = [Image.fromarray(random_pixels(16, 16, 3, seed=seed)) for seed in range(12)]
    files = write_folder(Path("files"), {f"{i}.png": encode(picture) for i, picture in enumerate(pictures)})
    real = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    paths = datasets.Dataset.from_dict(
        {"image": [str(files / f"{i}.png") for i in range(12)], "label": labels}, features=features
    )
    real.save_to_disk("real", num_shards=2)
    datasets.DatasetDict(train=real, validation=paths.shuffle(seed=0)).save_to_disk("dict")
    save(GIVEN, (images, labels), shards=2)
    for file in GIVEN.iterdir():
        if file.suffix == ".json":
            own, other = (json.loads(path.read_text()) for path in (file, Path("real") / file.name))
            assert {**own, "_fingerprint": ""} == {**other, "_fingerprint": ""}
        else:
            streams = [pa.ipc.open_stream(path.read_bytes()) for path in (file, Path("real") / file.name)]
            assert streams[0].schema.equals(streams[1].schema, check_metadata=True)
    assert pairs(load()) == pairs(load(Path("real")))
    source = load(Path("dict"))
    assert source.val is not None
    assert pairs(source)["val"] == pairs(load())["train"]
