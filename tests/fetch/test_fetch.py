"""From the source to the stored data set: split, whole, and the same every time."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import (
    ARCHIVE_WRITERS,
    data_params,
    fetch,
    fitted,
    image_files,
    png,
    random_pixels,
    write_fashion_mnist,
    write_folder,
)
from sklearn.model_selection import train_test_split

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import Dataset, open_dataset
from ptqflow.fetch.decoding import decode_image, fit_image

OUT = Path("dataset")


@pytest.fixture
def given() -> Path:
    return write_folder(Path("given"), image_files(20, 4))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def digests(dataset: Dataset) -> list[bytes]:
    return [bytes(digest) for split in (dataset.train, dataset.val, dataset.test) for digest in split.digests]


def test_the_data_set_is_stored_and_nothing_else(given: Path) -> None:
    card = fetch(data_params(), given, OUT)
    assert open_dataset(OUT).card == card
    assert (card.name, card.classes, card.skipped) == ("image_folder", ("cat", "dog"), 0)
    assert card.preprocessing == fitted(16)
    parts = [f"{split}_{part}.npy" for split in ("test", "train", "val") for part in ("digests", "images", "labels")]
    assert sorted(os.listdir(OUT)) == ["card.json", *parts]
    assert sorted(os.listdir()) == ["dataset", "given"]


def test_test_is_the_sources_own_and_val_is_drawn_from_train(given: Path) -> None:
    sizes = fetch(data_params(), given, OUT).sizes
    assert sizes == {"train": 32, "val": 8, "test": 8}
    dataset = open_dataset(OUT)
    files = contents(given)
    tests = [decode_image(files[name], fitted(16)) for name in sorted(files) if name.startswith("test")]
    assert (dataset.test.images == np.stack(tests)).all()
    for split in (dataset.train, dataset.val, dataset.test):
        assert np.bincount(split.labels).tolist() == [len(split) // 2] * 2
    assert len(set(digests(dataset))) == 48


def test_val_is_the_part_of_train_that_scikit_learn_draws(given: Path) -> None:
    fetch(data_params(seed=3), given, OUT)
    files = contents(given)
    names = sorted(name for name in files if name.startswith("train"))
    _, rows = train_test_split(np.arange(40), test_size=0.2, stratify=np.repeat([0, 1], 20), random_state=3)
    expected = [decode_image(files[names[row]], fitted(16)) for row in sorted(rows)]
    assert (open_dataset(OUT).val.images == np.stack(expected)).all()


def test_a_source_without_test_has_one_that_the_seed_draws() -> None:
    files = {f"{label}/{i}.png": png(i + 100 * (label == "dog")) for label in ("cat", "dog") for i in range(20)}
    given = write_folder(Path("given"), files)
    tests = []
    for seed in (0, 1):
        card = fetch(data_params(val_fraction=0.25, seed=seed), given, OUT)
        assert card.sizes == {"train": 24, "val": 8, "test": 8}
        dataset = open_dataset(OUT)
        assert len(set(digests(dataset))) == 40
        tests.append({bytes(digest) for digest in dataset.test.digests})
    assert tests[0] != tests[1]


def test_digits_need_no_file() -> None:
    card = fetch(data_params(name="digits", path=None, image_size=8, limit=100), None, OUT)
    assert card.sizes == {"train": 80, "val": 20, "test": 100}
    assert card.classes == tuple("0123456789")
    dataset = open_dataset(OUT)
    labels = np.concatenate([dataset.train.labels, dataset.val.labels])
    assert np.bincount(labels).min() >= 9


def test_limit_holds_for_train_with_val_and_for_test(given: Path) -> None:
    assert fetch(data_params(limit=6, val_fraction=0.4), given, OUT).sizes == {"train": 3, "val": 3, "test": 6}


@pytest.mark.parametrize("limit", [50, 100, 400, None])
def test_a_torchvision_set_is_what_drawing_from_all_its_scaled_images_yields(limit: int | None) -> None:
    write_fashion_mnist(Path("given"), 400)
    labels = np.arange(400) % 10
    images = np.stack([fit_image(Image.fromarray(image), fitted(32)) for image in random_pixels(400, 28, 28)])
    drawn = np.arange(400)
    if limit is not None and limit < 400:
        drawn = np.sort(train_test_split(drawn, test_size=400 - limit, stratify=labels, random_state=3)[0])
    parts = train_test_split(np.arange(len(drawn)), test_size=0.2, stratify=labels[drawn], random_state=3)

    fetch(data_params(name="fashion_mnist", image_size=32, limit=limit, seed=3), Path("given"), OUT)

    dataset = open_dataset(OUT)
    for split, rows in ((dataset.train, parts[0]), (dataset.val, parts[1]), (dataset.test, np.arange(len(drawn)))):
        assert (split.images == images[drawn[np.sort(rows)]]).all()
        assert (split.labels == labels[drawn[np.sort(rows)]]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel reports the peak in /proc")
def test_memory_is_bounded_by_pixels_not_by_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "given", image_files(60, 10))
    script = (
        "import re\n"
        "from pathlib import Path\n"
        "from samples import data_params, fetch\n"
        "from sklearn import model_selection  # which fetch imports late\n"
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "fetch(data_params(image_size=8), Path('given'), Path('small'))\n"
        "start = peak()\n"
        "fetch(data_params(image_size=512), Path('given'), Path('dataset'))\n"
        "print(peak() - start)\n"
    )
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent / 'src'}"}
    growth = int(subprocess.check_output([sys.executable, "-c", script], env=environment, cwd=tmp_path))
    assert Path("dataset/train_images.npy").stat().st_size > 75_000_000
    assert growth < 60_000_000


def test_hidden_and_system_files_are_counted_apart(given: Path) -> None:
    write_folder(given, {"train/@eaDir/0.png": b"", "test/cat/Thumbs.db": b"", ".git/": b""})
    card = fetch(data_params(), given, OUT)
    assert (card.ignored, card.skipped, sum(card.sizes.values())) == (2, 0, 48)


def test_skipped_files_are_counted(given: Path) -> None:
    (given / "train/cat/0.png").write_bytes(b"broken")
    card = fetch(data_params(on_bad_image="skip"), given, OUT)
    assert (card.skipped, sum(card.sizes.values())) == (1, 47)


@pytest.mark.parametrize("kind", ARCHIVE_WRITERS)
@pytest.mark.parametrize("around", ["", "photos/"])
def test_an_archive_yields_the_bytes_that_the_folder_yields(kind: str, around: str, given: Path) -> None:
    fetch(data_params(), given, Path("from folder"))
    archive = ARCHIVE_WRITERS[kind](Path("packed"), {around + name: data for name, data in contents(given).items()})
    fetch(data_params(), archive, Path("from archive"))
    assert contents(Path("from archive")) == contents(Path("from folder"))


def test_equal_params_make_equal_bytes_and_another_seed_other_splits(given: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fetch(data_params(seed=seed), given, Path(name))
    assert contents(Path("a")) == contents(Path("b"))
    assert contents(Path("a"))["test_images.npy"] == contents(Path("c"))["test_images.npy"]
    assert contents(Path("a"))["val_images.npy"] != contents(Path("c"))["val_images.npy"]


def test_a_refused_source_keeps_the_old_data_set(given: Path) -> None:
    fetch(data_params(), given, OUT)
    before = contents(OUT)
    with pytest.raises(DataError, match=r"data.val_fraction=0.2 divides 4 images into 3 and 1"):
        fetch(data_params(), write_folder(Path("few"), image_files(2, 1)), OUT)
    assert contents(OUT) == before
    assert not Path(".dataset.partial").exists()


def test_a_full_disk_is_an_error_that_keeps_the_old_data_set(given: Path, small_disk: Path) -> None:
    out = small_disk / "dataset"
    fetch(data_params(), given, out)
    before = contents(out)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch(data_params(image_size=256), given, out)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(f"{small_disk}/")
    assert contents(out) == before
    assert os.listdir(small_disk) == ["dataset"]


def test_a_killed_fetch_leaves_the_old_data_set_and_the_next_replaces_its_remains(given: Path) -> None:
    fetch(data_params(), given, OUT)
    before = contents(OUT)
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from samples import data_params, fetch\n"
        "from ptqflow.fetch import writing\n"
        "writing._channel_statistics = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fetch(data_params(seed=1), Path('given'), Path('dataset'))\n"
    )
    tests = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{tests}:{tests.parent / 'src'}"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    assert contents(OUT) == before
    assert Path(".dataset.partial/train_images.npy").exists()
    fetch(data_params(seed=2), given, OUT)
    fetch(data_params(), given, OUT)
    assert contents(OUT) == before
    assert not Path(".dataset.partial").exists()
