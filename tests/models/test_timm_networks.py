"""Networks of timm by their names, and its weights; what needs timm itself is skipped without it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import Normalization
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.timm_networks import describe_timm_weights, download_timm_weights

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@needs_timm
@pytest.mark.parametrize(
    ("name", "input_shape"),
    [("mobilenetv3_small_050", (3, 32, 32)), ("vit_tiny_patch16_224", (3, 32, 32)), ("resnet18", (1, 32, 32))],
)
def test_a_network_is_built_for_the_classes_the_size_and_the_channels_of_the_images(
    name: str, input_shape: tuple[int, int, int]
) -> None:
    model = build_model(f"timm:{name}", "standard", 7, input_shape)
    with torch.inference_mode():
        assert model(torch.rand(2, *input_shape)).shape == (2, 7)
    assert hash_code(f"timm:{name}") is None


@needs_timm
def test_an_unknown_network_suggests_similar_ones() -> None:
    with pytest.raises(
        ModelError, match=r"^model.name: timm has no network 'resnet81'; similar ones: timm:resnet\w+, "
    ):
        build_model("timm:resnet81", "standard", 7, (3, 32, 32))
    with pytest.raises(ModelError, match="similar ones: timm:resnet18, timm:mobilenetv3_small_100, "):
        build_model("timm:???", "standard", 7, (3, 32, 32))


@needs_timm
def test_weights_in_the_name_are_a_key_of_their_own() -> None:
    with pytest.raises(ModelError, match=r"set model\.name to timm:resnet18 and model\.weights to a1_in1k"):
        build_model("timm:resnet18.a1_in1k", "standard", 7, (3, 32, 32))


@needs_timm
def test_images_of_an_impossible_size_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"timm:vit_tiny_patch16_224 cannot .* images of 8x8") as refusal:
        build_model("timm:vit_tiny_patch16_224", "standard", 7, (3, 8, 8))
    assert "\n" not in str(refusal.value)


@needs_timm
def test_published_weights_bring_their_normalization_and_other_weights_none() -> None:
    vit = describe_timm_weights("timm:vit_tiny_patch16_224", "augreg_in21k_ft_in1k")
    resnet = describe_timm_weights("timm:resnet18", "a1_in1k")
    assert vit
    assert resnet
    assert vit.normalization == Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert resnet.normalization == Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert describe_timm_weights("timm:resnet18", "weights.safetensors") is None


@needs_timm
@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", ": a1_in1k, a2_in1k, "), ("resnet18_no_such", "timm has no network")]
)
def test_weights_that_are_not_published_are_reported_with_those_that_are(name: str, published: str) -> None:
    with pytest.raises(ModelError, match=published):
        download_timm_weights(f"timm:{name}", "a9_in1k")


@needs_timm
def test_published_weights_are_looked_for_in_the_cache_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as refusal:
        download_timm_weights("timm:resnet18", "a1_in1k")
    assert str(refusal.value).startswith(
        "model.weights: the download of model.safetensors from https://huggingface.co/timm/resnet18.a1_in1k failed ("
    )
    assert str(refusal.value).endswith("set model.weights to its path, and model.preprocessing to timm:a1_in1k")
    assert "\n" not in str(refusal.value)

    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    file = repository / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"the weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert download_timm_weights("timm:resnet18", "a1_in1k") == file


def test_without_timm_its_networks_are_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    with pytest.raises(ModelError) as refusal:
        build_model("timm:resnet18", "standard", 7, (3, 32, 32))
    assert str(refusal.value) == "model.name: timm:resnet18 needs timm, which is not installed: `pip install timm`"
