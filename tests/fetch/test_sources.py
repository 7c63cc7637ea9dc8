"""The embedded and the downloaded data sets."""

import gc
import hashlib
import io
import os
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from samples import data_params, fitted, image_files, random_pixels, read_pool, write_fashion_mnist, write_folder
from sklearn.datasets import load_digits

from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.fetch.sources import load_source
from ptqflow.fetch.splitting import Source

ensure_torchvision_imports()

from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST  # noqa: E402

GIVEN = Path("given")
COUNT = 20
COLOURS = random_pixels(COUNT, 3, 32, 32)
LABELS = [i % 10 for i in range(COUNT)]
CLASSES = tuple(f"class {i}" for i in range(10))


# urllib leaves the connection of a broken answer to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def _collect_connections() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def load(name: str, given: Path | None = None, **changes: object) -> Source:
    shutil.rmtree("scratch", ignore_errors=True)
    Path("scratch").mkdir()
    params = data_params(name=name, path=given and str(given), **changes)
    return load_source(params, params.preprocessing(), given, Path("scratch"))


def refusal(name: str, given: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(name, given)
    return str(caught.value)


@dataclass
class Cifar:
    """A CIFAR archive of 20 images in torchvision's format."""

    dataset: type[CIFAR10]
    files: dict[str, bytes]

    def write(self, folder: Path) -> Path:
        """Write the archive."""
        folder.mkdir(exist_ok=True)
        path = folder / self.dataset.filename
        with tarfile.open(path, "w:gz") as archive:
            for name, data in self.files.items():
                member = tarfile.TarInfo(f"{self.dataset.base_folder}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    def expect(self, monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
        """Make the checksums those of the archive and its files."""
        sums = {name: hashlib.md5(data).hexdigest() for name, data in self.files.items()}
        train, test, meta = self.files
        monkeypatch.setattr(self.dataset, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        monkeypatch.setattr(self.dataset, "train_list", [[train, sums[train]]])
        monkeypatch.setattr(self.dataset, "test_list", [[test, sums[test]]])
        monkeypatch.setattr(self.dataset, "meta", self.dataset.meta | {"filename": meta, "md5": sums[meta]})


def cifar(dataset: type[CIFAR10]) -> Cifar:
    label_key = "fine_labels" if dataset is CIFAR100 else "labels"
    images = pickle.dumps({"data": COLOURS.reshape(COUNT, -1), label_key: LABELS})
    meta = pickle.dumps({dataset.meta["key"]: list(CLASSES)})
    return Cifar(dataset, {"train": images, "test": images, "meta": meta})


def test_digits_are_scikit_learns_scaled_to_eight_bits() -> None:
    source = load("digits", image_size=8)
    digits = load_digits()
    assert source.classes == tuple("0123456789")
    assert source.train.labels.tolist() == digits.target.tolist()
    assert (read_pool(source, source.train) == np.rint(digits.images * 255 / 16)[..., None]).all()
    assert (source.test, source.horizontal_flip, source.normalization) == (None, False, None)


def test_digits_in_one_channel_are_their_grey_values() -> None:
    source = load("digits", image_size=8, channels=1)
    assert read_pool(source, source.train).shape == (1797, 8, 8, 1)
    assert (read_pool(source, source.train)[..., 0] == np.rint(load_digits().images * 255 / 16)).all()


@pytest.mark.parametrize("size", [28, 32])
def test_fashion_mnist_has_its_grey_values_in_each_channel_and_is_opaque(size: int) -> None:
    write_fashion_mnist(GIVEN)
    sources = (load("fashion_mnist", GIVEN, image_size=size, channels=n) for n in (1, 3, 4))
    grey, rgb, rgba = (read_pool(source, source.train) for source in sources)
    assert grey.shape == (COUNT, size, size, 1)
    if size == 28:
        assert (grey[..., 0] == random_pixels(COUNT, 28, 28)).all()
    assert (rgb == grey).all()
    assert (rgba[..., :3] == grey).all()
    assert (rgba[..., 3] == 255).all()


def test_digits_are_upscaled_smoothly() -> None:
    source, small = load("digits", image_size=32), load("digits", image_size=8)
    large, original = read_pool(source, source.train), read_pool(small, small.train)
    assert large.shape == (1797, 32, 32, 3)
    means = large.mean(axis=(1, 2, 3)) - original.mean(axis=(1, 2, 3))
    assert np.abs(means).max() < 4


def test_the_users_own_images_are_read_from_data_path() -> None:
    assert load("image_folder", write_folder(GIVEN, image_files())).classes == ("cat", "dog")


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("form", ["archive", "folder with archive", "unpacked"])
def test_cifar_is_found_at_data_path(dataset: type[CIFAR10], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar(dataset)
    archive = made.write(GIVEN)
    made.expect(monkeypatch, archive)
    if form == "unpacked":
        shutil.unpack_archive(archive, GIVEN, filter="data")
        archive.unlink()
    before = sorted(GIVEN.rglob("*"))
    source = load(dataset.__name__.lower(), archive if form == "archive" else GIVEN, image_size=32)
    assert source.classes == CLASSES
    for pool in (source.train, source.test):
        assert pool is not None
        assert (read_pool(source, pool) == COLOURS.transpose(0, 2, 3, 1)).all()
        assert pool.labels.tolist() == LABELS
    assert source.horizontal_flip
    assert sorted(GIVEN.rglob("*")) == before


def test_only_cifar10_has_a_customary_normalization(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for dataset in (CIFAR10, CIFAR100):
        made = cifar(dataset)
        archive = made.write(GIVEN)
        made.expect(monkeypatch, archive)
        found.append(load(dataset.__name__.lower(), archive).normalization)
    assert found == [Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)), None]


@pytest.mark.parametrize("channels", [1, 4])
def test_the_customary_normalization_is_that_of_three_channels(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar(CIFAR10)
    archive = made.write(GIVEN)
    made.expect(monkeypatch, archive)
    source = load("cifar10", archive, image_size=32, channels=channels)
    assert read_pool(source, source.train).shape == (COUNT, 32, 32, channels)
    assert source.normalization is None


def test_fashion_mnist_is_found_at_data_path() -> None:
    write_fashion_mnist(GIVEN)
    source = load("fashion_mnist", GIVEN, image_size=28)
    assert source.classes[0] == "T-shirt/top"
    assert (read_pool(source, source.train) == random_pixels(COUNT, 28, 28)[..., None]).all()
    assert source.train.labels.tolist() == LABELS


def test_images_of_a_torchvision_set_are_scaled_some_at_a_time() -> None:
    write_fashion_mnist(GIVEN, count=600)
    source = load("fashion_mnist", GIVEN, image_size=256)
    steps = [decode().shape for _, decode in source.read(source.train.rows)]
    assert set(steps) == {(4, 256, 256, 3)}
    assert len(steps) == 150


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("form", ["archive", "unpacked"])
def test_pickles_with_another_checksum_are_refused_unread(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar(CIFAR10)
    made.expect(monkeypatch, made.write(GIVEN))
    made.files["train"] = pickle.dumps(Trap())
    archive = made.write(GIVEN)
    if form == "unpacked":
        shutil.unpack_archive(archive, GIVEN, filter="data")
    message = refusal("cifar10", archive if form == "archive" else GIVEN)
    assert f"data.path: {(archive if form == 'archive' else GIVEN).resolve()} does not hold cifar10" in message
    assert not Path("sprung").exists()


EXPECTED = {
    "cifar10": "cifar-10-python.tar.gz as published, or a folder that holds it or, unpacked, cifar-10-batches-py/",
    "cifar100": "cifar-100-python.tar.gz as published, or a folder that holds it or, unpacked, cifar-100-python/",
    "fashion_mnist": "a folder that holds FashionMNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, "
    "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("kind", ["empty folder", "file"])
def test_what_is_not_the_data_set_is_reported_with_what_must_lie_there(name: str, kind: str) -> None:
    GIVEN.write_text("no data set") if kind == "file" else GIVEN.mkdir()
    message = refusal(name, GIVEN)
    assert f"data.path: {GIVEN.resolve()} does not hold {name} as torchvision stores it (" in message
    assert message.endswith(f"; expected {EXPECTED[name]}")
    assert "download=True" not in message


@pytest.mark.parametrize("content", [b"", b"\0\0\x0a\x03", b"\0\0\x0d\x03" + b"\0\0\0\1" * 4, b"no idx file", None])
def test_a_damaged_fashion_mnist_is_reported(content: bytes | None) -> None:
    file = write_fashion_mnist(GIVEN) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    assert f"data.path: {GIVEN.resolve()} does not hold fashion_mnist" in refusal("fashion_mnist", GIVEN)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 158, *range(2, 10)] * 2, "labels 0 to 158 of 10 classes"),
        ([*range(10)], "20 images and 10 labels"),
    ],
)
def test_fashion_mnist_whose_labels_are_no_classes_or_too_few_is_refused(labels: list[int], words: str) -> None:
    file = write_fashion_mnist(GIVEN) / "t10k-labels-idx1-ubyte"
    file.write_bytes(b"\0\0\x08\1" + len(labels).to_bytes(4, "big") + bytes(labels))
    assert f"does not hold fashion_mnist as torchvision stores it ({words})" in refusal("fashion_mnist", GIVEN)


def test_a_full_disk_is_not_taken_for_a_damaged_archive(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar(CIFAR10)
    made.files["test"] = os.urandom(2_000_000)
    archive = made.write(GIVEN)
    made.expect(monkeypatch, archive)
    with pytest.raises(OSError, match="No space left on device") as caught:
        load_source(data_params(name="cifar10"), fitted(16), archive, small_disk)
    assert str(caught.value.filename).startswith(str(small_disk))


class Server(ThreadingHTTPServer):
    """Does not mind when a download is given up."""

    def handle_error(self, *_: object) -> None:
        pass


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: object) -> None:
        pass


class Broken(BaseHTTPRequestHandler):
    """Answers every request with the same bytes, then hangs up."""

    def __init__(self, answer: bytes, *args: object) -> None:
        self.answer = answer
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.wfile.write(self.answer)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


Serve = Callable[[Callable[..., BaseHTTPRequestHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server on this machine; return its address."""
    servers = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> str:
        server = Server(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ptqflow" / "datasets"


@pytest.mark.usefixtures("cache")
def test_a_data_set_is_downloaded_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cifar(CIFAR10)
    archive = made.write(Path("served"))
    made.expect(monkeypatch, archive)
    monkeypatch.setattr(CIFAR10, "url", serve(partial(Quiet, directory="served")) + archive.name)
    first = load("cifar10", image_size=32)
    archive.unlink()
    again = load("cifar10", image_size=32)
    for source in (first, again):
        assert (read_pool(source, source.train) == COLOURS.transpose(0, 2, 3, 1)).all()


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "cut off": OK + b"Content-Length: 1000000\r\n\r\ncut off",
    "cut off between chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n1000\r\ncut off",
    "another file": OK + b"\r\n<html>Please log in</html>",
    "not found": b"HTTP/1.1 404 Not Found\r\n\r\n",
    "no HTTP": b"no HTTP\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_download_that_fails_says_how_to_use_data_path(
    name: str, answer: str, serve: Serve, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(partial(Broken, ANSWERS[answer]))
    monkeypatch.setattr(CIFAR10, "url", url + CIFAR10.filename)
    monkeypatch.setattr(FashionMNIST, "mirrors", [url])
    message = refusal(name)
    assert f"data.name={name}: the download to {cache} failed (" in message
    assert message.endswith("get the data set by other means and set data.path to the folder that holds it")


@pytest.mark.usefixtures("cache")
def test_a_download_that_is_refused_says_how_to_use_data_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/{CIFAR10.filename}")
        message = refusal("cifar10")
    assert "Connection refused" in message
    assert message.endswith("set data.path to the folder that holds it")


def test_a_download_that_was_killed_while_unpacking_names_the_folder_to_clear(cache: Path) -> None:
    file = write_fashion_mnist(cache) / "train-images-idx3-ubyte"
    file.write_bytes(b"")
    assert f"the download to {cache} failed" in refusal("fashion_mnist")


def test_a_download_to_a_full_disk_says_so(small_disk: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    Path("served").mkdir()
    Path("served", CIFAR10.filename).write_bytes(os.urandom(2_000_000))
    monkeypatch.setattr(CIFAR10, "url", serve(partial(Quiet, directory="served")) + CIFAR10.filename)
    with pytest.raises(OSError, match="No space left on device") as caught:
        load("cifar10")
    assert str(caught.value.filename).startswith(str(small_disk))
