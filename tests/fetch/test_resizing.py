"""Pixels compared with those of the transforms that weights are published with."""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from samples import encode

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.fetch.decoding import decode_image
from ptqflow.models.timm_networks import describe_timm_weights
from ptqflow.models.torchvision_weights import describe_torchvision_weights

ensure_torchvision_imports()

from torchvision import models  # noqa: E402

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an extra")

SIZES = [(301, 403), (403, 301), (640, 480), (257, 256), (225, 224), (224, 224), (31, 47), (9, 500), (5, 3), (1, 1)]
"""Widths and heights: landscape, portrait, one pixel more than the crop, equal to it, tiny and thin."""


def photo(width: int, height: int) -> Image.Image:
    """Return a smooth image with edges and noise, as photos have."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.stack([np.sin(19 * x + 7 * y), np.cos(23 * y * x), np.sin(40 * (x - y) ** 2)], axis=-1)
    noise = np.random.default_rng(width * 1000 + height).normal(0, 12, waves.shape)
    edges = 60 * ((x * 9).astype(int) + (y * 7).astype(int) & 1)[..., None]
    return Image.fromarray((100 + 70 * waves + edges + noise).clip(0, 255).astype(np.uint8))


def files(width: int, height: int) -> list[bytes]:
    image = photo(width, height)
    return [encode(image), encode(image, "JPEG", quality=90), encode(image, "JPEG", quality=60, subsampling=2)]


def opened(data: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(data)).convert("RGB")


def preset_of(architecture: str, weights: str) -> Callable[[Image.Image], np.ndarray]:
    """Return torchvision's own preset without its normalization: uint8 (height, width, 3)."""
    preset = models.get_model_weights(architecture)[weights].transforms(mean=(0, 0, 0), std=(1, 1, 1))
    return lambda image: (preset(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


TORCHVISION = [
    ("resnet18", "IMAGENET1K_V1"),  # 256, 224, bilinear
    ("resnet50", "IMAGENET1K_V2"),  # 232
    ("efficientnet_b0", "IMAGENET1K_V1"),  # bicubic
    ("efficientnet_b1", "IMAGENET1K_V2"),  # 255, 240
    ("swin_t", "IMAGENET1K_V1"),  # 232, bicubic
    ("inception_v3", "IMAGENET1K_V1"),  # 342, 299
    ("vit_b_16", "IMAGENET1K_SWAG_LINEAR_V1"),  # 224, 224, bicubic
]


@pytest.mark.parametrize(("architecture", "weights"), TORCHVISION)
def test_pixels_equal_those_of_the_preset_that_torchvision_publishes_with_the_weights(
    architecture: str, weights: str
) -> None:
    described, preset = describe_torchvision_weights(architecture, weights), preset_of(architecture, weights)
    assert described
    for size in SIZES:
        for data in files(*size):
            assert np.array_equal(decode_image(data, described.preprocessing), preset(opened(data))), size


def test_every_preset_of_torchvision_is_described_by_its_own_numbers() -> None:
    described = 0
    for architecture in models.list_models(module=models):
        for weights in models.get_model_weights(architecture):
            found, preset = describe_torchvision_weights(architecture, weights.name), weights.transforms()
            assert found
            how = found.preprocessing
            assert [[how.height], [how.resized[0]]] == [preset.crop_size, preset.resize_size]
            assert (how.interpolation, list(found.normalization.mean)) == (preset.interpolation.value, preset.mean)
            assert list(found.normalization.std) == preset.std
            described += 1
    assert described > 100


@needs_timm
@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("resnet18", "a1_in1k"),  # center, crop_pct 0.95, bicubic
        ("mobilenetv3_small_100", "lamb_in1k"),  # 0.875
        ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k"),  # 0.9, mean 0.5
        ("inception_v3", "tf_in1k"),  # 299
        ("convnext_atto", "d2_in1k"),
    ],
)
def test_pixels_equal_those_of_the_transform_that_timm_creates_for_the_weights(architecture: str, weights: str) -> None:
    import timm

    described = describe_timm_weights(f"timm:{architecture}", weights)
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(f"{architecture}.{weights}").to_dict()
    )
    assert described
    compare_with_timm(described.preprocessing, config)


@needs_timm
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "share"), [((48, 32), 0.875), ((33, 65), 0.9), ((64, 64), 1.0), ((40, 40), 1.1)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_pixels_equal_those_of_every_crop_mode_and_interpolation_of_timm(
    mode: str, size: tuple[int, int], share: float, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    config = {
        "input_size": (3, *size),
        "crop_pct": share,
        "crop_mode": mode,
        "interpolation": interpolation,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    monkeypatch.setattr("timm.data.config.resolve_data_config", lambda pretrained_cfg: config)
    assert timm.is_model("resnet18")
    described = describe_timm_weights("timm:resnet18", "a1_in1k")
    assert described
    compare_with_timm(described.preprocessing, config)


@needs_timm
def test_what_timm_publishes_is_described() -> None:
    import timm

    found = set()
    for name in timm.list_pretrained(["resnet*", "mobilenet*", "vit_*", "naflex*", "tf_eff*"]):
        if not timm.get_pretrained_cfg(name).hf_hub_id:
            continue
        architecture, _, weights = name.partition(".")
        described = describe_timm_weights(f"timm:{architecture}", weights)
        assert described, name
        found.add((described.preprocessing.resize, described.preprocessing.interpolation))
    assert found > {("short_side", "bicubic"), ("short_side", "bilinear"), ("squash", "bicubic")}


def compare_with_timm(how: Preprocessing, config: dict[str, object]) -> None:
    from timm.data import create_transform

    transform = create_transform(**(config | {"mean": config["mean"]}), normalize=False)
    for size in SIZES:
        if how.resize == "letterbox" and max(size) > 100 * min(size):
            continue  # timm resizes it to no pixels
        for data in files(*size):
            expected = transform(opened(data)).permute(1, 2, 0).numpy()
            assert np.array_equal(decode_image(data, how), expected), size
