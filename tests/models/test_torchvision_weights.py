import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn
from torchvision.models import ResNet18_Weights, Weights, WeightsEnum, _api

from ptqflow.core.errors import ModelError
from ptqflow.models.torchvision_weights import download_weights

Publish = Callable[[Path], None]

CONTENT = b"the weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Register an architecture with torchvision whose published weights are a file on this disk."""

    def register(source: Path) -> None:
        class PublishedWeights(WeightsEnum):
            V1 = Weights(url=source.as_uri(), transforms=nn.Identity, meta={})

        def published_on_disk(*, weights: PublishedWeights | None) -> nn.Module:
            raise AssertionError("only the weights are requested")

        monkeypatch.setitem(_api.BUILTIN_MODELS, "published_on_disk", published_on_disk)

    return register


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_weights_are_downloaded_to_torchs_cache_and_found_there(tmp_path: Path, cache: Path, publish: Publish) -> None:
    source = write(tmp_path / "server" / f"on_disk-{SHA256}.pth")
    publish(source)

    file = download_weights("published_on_disk", "V1")
    assert file == cache / source.name
    assert file.read_bytes() == CONTENT

    shutil.rmtree(source.parent)
    assert download_weights("published_on_disk", "V1") == file


def test_a_download_with_another_hash_than_its_name_is_not_kept(tmp_path: Path, cache: Path, publish: Publish) -> None:
    publish(write(tmp_path / "server" / "on_disk-01234567.pth"))

    with pytest.raises(ModelError, match=r"model.weights: the download of file://.* failed \(invalid hash value"):
        download_weights("published_on_disk", "V1")
    assert list(cache.iterdir()) == []


def test_a_failed_download_says_what_to_do(tmp_path: Path, cache: Path, publish: Publish) -> None:
    publish(tmp_path / f"nowhere-{SHA256}.pth")

    with pytest.raises(ModelError, match=r"nowhere-.*download the file by other means and set model.weights"):
        download_weights("published_on_disk", "V1")


def test_a_changed_file_in_the_cache_is_found(cache: Path) -> None:
    name = Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    write(cache / name, b"something else")

    with pytest.raises(ModelError, match=rf"{name} does not have the SHA-256 of its name .* remove it and run again"):
        download_weights("resnet18", "IMAGENET1K_V1")


def test_unknown_weights_are_refused_with_a_list_of_the_known_ones(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"'IMAGENET1K_V9' is neither .* of resnet50, which are IMAGENET1K_V1, IM"):
        download_weights("resnet50", "IMAGENET1K_V9")


def test_an_unknown_architecture_has_no_published_weights(cache: Path) -> None:
    with pytest.raises(ModelError, match="'resnet81' is not a torchvision classifier"):
        download_weights("resnet81", "IMAGENET1K_V1")
