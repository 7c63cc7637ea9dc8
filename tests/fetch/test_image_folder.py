"""The user's own images, in every layout and with every mistake."""

import os
import time
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import (
    ARCHIVE_WRITERS,
    WRITERS,
    data_params,
    encode,
    fetch,
    fitted,
    image_files,
    png,
    random_pixels,
    read_pool,
    write_folder,
    write_zip,
    write_zip_of_raw_names,
)

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import SPLITS, Dataset, digests_of, open_dataset
from ptqflow.fetch.archives import list_files
from ptqflow.fetch.decoding import decode_image
from ptqflow.fetch.image_folder import _find_layout, load_image_folder
from ptqflow.fetch.splitting import Source

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def load(files: dict[str, bytes], **changes: object) -> Source:
    params = data_params(**changes)
    return load_image_folder(write_folder(Path("given"), files), params, params.preprocessing())


def refusal(files: dict[str, bytes], **changes: object) -> str:
    with pytest.raises(DataError) as caught:
        fetched(files, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetched(files: dict[str, bytes], **changes: object) -> Dataset:
    fetch(data_params(**changes), write_folder(Path("given"), files), Path("dataset"))
    return open_dataset(Path("dataset"))


def test_images_and_labels_are_those_of_the_files_in_the_order_of_their_names() -> None:
    files = image_files(150, 2)  # more than are decoded at a time
    source = load(files)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0] * 150 + [1] * 150
    train = [decode_image(files[name], fitted(16)) for name in sorted(files) if name.startswith("train")]
    assert (read_pool(source, source.train) == np.stack(train)).all()
    assert source.test is not None
    assert source.test.labels.tolist() == [0, 0, 1, 1]
    assert (source.skipped, source.horizontal_flip, source.normalization) == (0, True, None)


@pytest.mark.parametrize("around", ["", "photos/", "a/b/", "test/"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_folders_around_everything_are_looked_through(around: str, split: str) -> None:
    files = image_files() if split else {f"{c}/{i}.png": png(i) for c in ("cat", "dog") for i in range(10)}
    source = load({around + name: data for name, data in files.items()})
    assert source.classes == ("cat", "dog")
    assert len(source.train) == 20
    assert (source.test is not None) == bool(split)


@pytest.mark.parametrize("kind", WRITERS)
def test_hidden_and_system_files_are_no_classes_and_no_images_and_a_line_counts_them(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = {
        "#recycle/0.png": png(0),
        "train/@eaDir/cat/0.png": png(0),
        "train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png": png(0),
        "test/dog/Thumbs.db": b"",
        "__MACOSX/train/cat/._0.png": b"",
        "train/.cache/a": b"",
    }
    root = WRITERS[kind](Path("given"), image_files() | ignored)
    source = load_image_folder(root, data_params(), fitted(16))
    assert (source.classes, len(source.train), source.skipped, source.ignored) == (("cat", "dog"), 20, 0, 6)
    assert capsys.readouterr().out == (
        f"{root.resolve()}: 6 hidden or system files are ignored: '@eaDir' (2), '#recycle' (1), '__MACOSX' (1), "
        "'Thumbs.db' (1), '.cache' (1)\n"
    )


def test_the_line_about_ignored_files_names_the_most_frequent(capsys: pytest.CaptureFixture[str]) -> None:
    load(image_files() | {f".{name}": b"" for name in "abcdefg"} | {f"train/.g/{i}": b"" for i in range(1000)})
    assert capsys.readouterr().out.endswith(
        ": 1,007 hidden or system files are ignored: '.g' (1,001), '.a' (1), '.b' (1), '.c' (1), '.d' (1), 2 others\n"
    )


def test_without_hidden_or_system_files_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert load(image_files(classes=("recycle", "snapshot"))).classes == ("recycle", "snapshot")
    assert capsys.readouterr().out == ""


def test_files_in_folders_below_a_class_belong_to_it() -> None:
    assert load(image_files() | {"train/cat/more/x.png": png(99)}).train.labels.tolist() == [0] * 11 + [1] * 10


def test_names_may_be_anything_that_a_folder_can_be_called() -> None:
    classes = ("<script>alert(1)<", "Ünïcode mit Raum", "{{ 7 * 7 }}", "a,b", "a:\\ b", "日本語 🐈", "-rf")
    assert load(image_files(classes=classes)).classes == tuple(sorted(classes))


def test_a_class_whose_name_is_not_utf8_is_refused() -> None:
    latin = os.fsdecode("Käfer".encode("latin-1"))
    assert r"the name of the class 'K\udce4fer' is not UTF-8; rename its folder" in refusal(
        image_files(classes=("cat", latin))
    )


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("in_train", "in_test"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_class_is_the_same_composed_and_decomposed(kind: str, in_train: str, in_test: str) -> None:
    files = {name.replace("test/cat", f"test/{in_test}"): data for name, data in image_files().items()}
    files = {name.replace("train/cat", f"train/{in_train}"): data for name, data in files.items()}
    source = load_image_folder(WRITERS[kind](Path("given"), files), data_params(), fitted(16))
    assert source.classes == (NFC, "dog")
    assert source.train.labels.tolist() == [0] * 10 + [1] * 10
    assert source.test is not None
    assert source.test.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("split", ["", "train/", "photos/train/"])
def test_two_folders_that_differ_only_in_composition_are_refused_with_both_names(split: str) -> None:
    files = {f"{split}{name}/{i}.png": png(i) for name in (NFC, NFD, "dog") for i in range(4)}
    files |= {f"{split.replace('train', 'test')}dog/0.png": png(9)} if split else {}
    both = f"the folders {split + NFC!a} and {split + NFD!a} differ only in Unicode normalization"
    assert r"\xe9' and '" in both
    assert both in refusal(files)


def test_a_zip_of_windows_is_read_with_its_encoding() -> None:
    files = {name.replace("/", "\\").encode("gbk"): data for name, data in image_files(classes=("狗", "猫")).items()}
    archive = write_zip_of_raw_names(Path("windows.zip"), {b"train\\": b"", b"test\\": b""} | files)
    with pytest.raises(DataError, match=r"does not say in which encoding its name is; set data\.encoding to the one"):
        load_image_folder(archive, data_params(), fitted(16))
    source = load_image_folder(archive, data_params(encoding="gbk"), fitted(16))
    assert (source.classes, len(source.train)) == (("狗", "猫"), 20)


def test_a_class_of_a_tar_whose_name_is_not_utf8_is_refused_with_the_key_that_decodes_it() -> None:
    names = [os.fsdecode(name.encode("latin-1")) for name in image_files(classes=("Käfer", "dog"))]
    archive = ARCHIVE_WRITERS["tar"](Path("given.tar"), dict(zip(names, image_files().values(), strict=True)))
    with pytest.raises(
        DataError, match=r"the class .* is not UTF-8; set data\.encoding to the encoding of the archive"
    ):
        load_image_folder(archive, data_params(), fitted(16))
    assert load_image_folder(archive, data_params(encoding="latin-1"), fitted(16)).classes == ("Käfer", "dog")


@pytest.mark.parametrize("kind", ARCHIVE_WRITERS)
def test_an_archive_yields_what_the_folder_yields_whatever_its_order(kind: str) -> None:
    files = image_files()
    expected = load(files)
    archive = ARCHIVE_WRITERS[kind](Path("archive"), dict(reversed(files.items())))
    found = load_image_folder(archive, data_params(), fitted(16))
    assert found.classes == expected.classes
    assert found.train.labels.tolist() == expected.train.labels.tolist()
    assert (read_pool(found, found.train) == read_pool(expected, expected.train)).all()
    assert (read_pool(found, found.test) == read_pool(expected, expected.test)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"test/bird/0.png": png(0)}, "test/ has the class 'bird', which train/ does not have"),
        ({"test/bird/": b""}, "test/ has the class 'bird', which train/ does not have"),
        ({"train/0.png": png(0)}, "train/0.png is in no class folder; expected"),
        ({"0.png": png(0), "1.png": png(1)}, "0.png and 1 others are in no class folder; expected"),
        ({"train/cat/broken.png": png(0)[:50]}, "train/cat/broken.png is no readable image ("),
        ({"test/cat/notes": b"notes"}, "test/cat/notes is no readable image (Pillow does not know its format"),
        (
            {"train/cat/x.png": encode(Image.fromarray(random_pixels(8, 8).astype("uint16")))},
            "train/cat/x.png is no readable image (mode I;16, values ",
        ),
        ({"train/cat/empty.png": b""}, "fix or remove it, or set data.on_bad_image=skip"),
        ({"train/bird/": b""}, "the class 'bird' has no images in train"),
        ({"train/bird/0.png": png(0), "test/bird/": b""}, "the class 'bird' has no images in test"),
    ],
)
def test_a_mistake_is_named(change: dict[str, bytes], words: str) -> None:
    assert words in refusal(image_files() | change)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {},
            "holds no files; expected train/<class>/… with test/<class>/… or val/<class>/… or both, or <class>/… alone",
        ),
        ({"train/cat/": b""}, "holds no files"),
        ({"@eaDir/cat/0.png": png(0)}, "holds no files but files that are left out; expected"),
        (
            {"cat/0.png": png(0), "cat/1.png": png(1)},
            "there is only the class 'cat', and a classifier needs two or more",
        ),
        ({"train/cat/0.png": png(0), "test/cat/1.png": png(1)}, "there is only the class 'cat'"),
        ({"0.png": png(0)}, "0.png is in no class folder"),
    ],
)
def test_too_little_is_reported(files: dict[str, bytes], words: str) -> None:
    assert words in refusal(files)


def tree(splits: tuple[str, ...], around: str = "") -> dict[str, bytes]:
    """Return 4 images of each class of each split, all different."""
    names = [f"{around}{split}/{label}/{i}.png" for split in splits for label in ("cat", "dog") for i in range(4)]
    return {name: png(seed) for seed, name in enumerate(names)}


@pytest.mark.parametrize("around", ["", "photos/"])
@pytest.mark.parametrize("splits", [("test", "val"), ("train",), ("Train",), ("training",), ("train", "training")])
def test_splits_without_train_or_alone_or_twice_do_not_become_classes(splits: tuple[str, ...], around: str) -> None:
    message = refusal(tree(splits, around))
    assert f"holds {', '.join(splits)}, which look like splits: train, and test or val or both" in message


@pytest.mark.parametrize("around", ["", "photos/"])
@pytest.mark.parametrize(
    ("splits", "found"),
    [
        (("Test", "TRAIN"), ("train", "test")),
        (("Testing", "training"), ("train", "test")),
        (("train", "val"), ("train", "val")),
        (("Train", "Valid"), ("train", "val")),
        (("eval", "train"), ("train", "val")),
        (("dev", "Train"), ("train", "val")),
        (("test", "train", "validation"), ("train", "val", "test")),
    ],
)
def test_the_usual_names_of_splits_are_known_whatever_their_case(
    splits: tuple[str, ...], found: tuple[str, ...], around: str
) -> None:
    source = load(tree(splits, around))
    pools = {"train": source.train, "val": source.val, "test": source.test}
    assert source.classes == ("cat", "dog")
    assert tuple(name for name, pool in pools.items() if pool) == found
    assert all(pool.labels.tolist() == [0] * 4 + [1] * 4 for pool in pools.values() if pool)


def test_a_val_of_the_users_stays_val() -> None:
    files = tree(("train", "val", "test"))
    dataset = fetched(files)
    stored = {name: decode_image(data, fitted(16)) for name, data in files.items()}
    for split in SPLITS:
        expected = digests_of([pixels for name, pixels in stored.items() if name.startswith(split)])
        assert (getattr(dataset, split).digests == expected).all()


def test_val_in_the_place_of_test_is_divided_so_that_no_image_of_test_was_trained_on() -> None:
    files = {
        f"{split}/{label}/{i}.png": png(1000 * (split == "val") + 100 * (label == "dog") + i)
        for split in ("train", "val")
        for label in ("cat", "dog")
        for i in range(12)
    }
    dataset = fetched(files, val_fraction=0.1, test_fraction=0.2)
    held_out = digests_of([decode_image(data, fitted(16)) for name, data in files.items() if name.startswith("val")])
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == [24, 8, 16]
    assert set(held_out.tolist()) == {*dataset.val.digests.tolist(), *dataset.test.digests.tolist()}


def test_files_that_are_no_images_by_their_names_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    strays = {"readme.txt": b"", "train/labels.csv": b"", "train/cat/0.json": b"{}", "test/dog/1.json": b"{}"}
    source = load(image_files() | strays)
    assert (len(source.train), source.ignored) == (20, 4)
    assert ": 4 files that are no images by their names are left out: '.json' (2), '.txt' (1), '.csv' (1)" in (
        capsys.readouterr().out
    )


def test_all_rules_that_a_folder_breaks_are_reported_at_once() -> None:
    change = {"test/bird/0.png": png(0), "train/fox/": b"", "test/fox/": b"", "train/owl/": b""}
    message = refusal(image_files() | change)
    assert "test/ has the class 'bird', which train/ does not have; " in message
    assert "the classes 'fox', 'owl' have no images in train" in message
    assert "the class 'fox' has no images in test" in message


def test_a_class_called_train_beside_others_is_reported_what_train_means() -> None:
    files = {f"{label}/{i}.png": png(i) for label in ("car", "plane", "train") for i in (0, 1)}
    message = refusal(files)
    assert "holds car, plane, train; a folder named train is read as the training split" in message
    assert "if train is a class, rename its folder" in message


@pytest.mark.parametrize("classes", [("car", "train"), ("Test", "car"), ("Train", "car"), ("training", "yoga")])
def test_a_class_may_be_called_as_a_split_below_the_splits(classes: tuple[str, ...]) -> None:
    assert load(image_files(classes=classes)).classes == classes


@pytest.mark.parametrize("classes", [("Train", "car"), ("car", "test"), ("training", "yoga")])
def test_a_class_may_be_called_as_a_split_beside_one_that_is_not(classes: tuple[str, ...]) -> None:
    files = {f"{label}/{i}.png": png(i) for label in classes for i in (0, 1)}
    assert load(files).classes == classes


def least_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of the fastest of three runs: a garbage collection takes longer than one."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_ten_thousand_classes_cost_no_more_than_the_listing_of_their_files() -> None:
    names = [f"{split}/class {i:05}/0.png" for split in ("train", "test") for i in range(10_000)]
    archive = write_zip(Path("given.zip"), dict.fromkeys(names, b""), zipfile.ZIP_STORED)
    listing = list_files(archive)
    # With a search for each file it took three times as long.
    assert least_seconds(lambda: _find_layout(archive, listing)) < least_seconds(lambda: list_files(archive))
    labels = _find_layout(archive, listing).labels
    assert labels["train"].tolist() == labels["test"].tolist() == list(range(10_000))


@pytest.mark.parametrize("kind", ARCHIVE_WRITERS)
def test_an_empty_archive_is_reported(kind: str) -> None:
    archive = ARCHIVE_WRITERS[kind](Path("given"), {})
    with pytest.raises(DataError, match="given holds no files; expected"):
        load_image_folder(archive, data_params(), fitted(16))


def test_splits_are_drawn_from_the_readable_images() -> None:
    broken = {"train/cat/4.png": b"broken", "test/dog/0.png": b""}
    found = fetched(image_files() | broken, on_bad_image="skip")
    readable = {name: data for name, data in image_files().items() if name not in broken}
    for name in broken:
        (Path("given") / name).unlink()
    expected = fetched(readable)
    assert (found.card.skipped, expected.card.skipped) == (2, 0)
    assert found.card.sha256 == expected.card.sha256
    for split in SPLITS:
        assert (getattr(found, split).digests == getattr(expected, split).digests).all()
    assert (found.card.mean, found.card.std) == (expected.card.mean, expected.card.std)


def test_a_class_that_loses_all_its_images_is_named() -> None:
    files = {name: b"broken" if name.startswith("train/cat") else data for name, data in image_files().items()}
    assert "the class 'cat' has no readable images in train" in refusal(files, on_bad_image="skip")
    assert not Path("dataset").exists()


def test_limit_keeps_a_stratified_subset_that_the_seed_draws_and_decodes_no_more() -> None:
    files = image_files(20, 10)
    draws = []
    for seed in (0, 0, 1):
        source = load(files, limit=10, seed=seed)
        assert source.train.labels.tolist() == [0] * 5 + [1] * 5
        assert source.test is not None
        assert len(source.train) + len(source.test) == 20
        draws.append(read_pool(source, source.train).tobytes())
    assert draws[0] == draws[1] != draws[2]


def test_a_limit_too_small_for_every_class_is_reported() -> None:
    assert "data.limit=2 divides 40 images into 2 and 38, and each split needs 4 or more, one of each class" in (
        refusal(image_files(10, 10, tuple("abcd")), limit=2)
    )


@pytest.mark.parametrize(("split", "least"), [("train/", 2), ("", 3)])
def test_a_limit_keeps_an_image_of_each_class_for_each_split_that_is_drawn(split: str, least: int) -> None:
    files = {f"{split}{label}/{i}.png": png(i) for label in ("cat", "dog") for i in range(10)}
    files |= {f"test/{label}/0.png": png(0) for label in ("cat", "dog")} if split else {}
    assert len(load(files, limit=2 * least).train) == 2 * least
    assert f"data.limit={2 * least - 2} keeps {least - 1} of the images of the class 'cat', and {least} are needed" in (
        refusal(files, limit=2 * least - 2)
    )
