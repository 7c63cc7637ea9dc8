"""Pixels compared with those of the transforms that weights are published with."""

import importlib.util
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from samples import encode, random_pixels
from torch.nn import functional as F

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.fetch.decoding import UnreadableImageError, decode_image, fit_arrays, fit_image
from ptqflow.models.timm_networks import describe_timm_weights
from ptqflow.models.torchvision_weights import describe_torchvision_weights

ensure_torchvision_imports()

from torchvision import models  # noqa: E402
from torchvision.transforms import functional as TF  # noqa: E402

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


def test_a_large_jpeg_is_decoded_in_full_where_the_preprocessing_is_another_library_s() -> None:
    data = encode(photo(1700, 1300), "JPEG", quality=90)
    described, preset = (
        describe_torchvision_weights("resnet18", "IMAGENET1K_V1"),
        preset_of("resnet18", "IMAGENET1K_V1"),
    )
    assert described
    assert np.array_equal(decode_image(data, described.preprocessing), preset(opened(data)))


def how(size: tuple[int, int], **changes: object) -> Preprocessing:
    """Return the default preprocessing with other values of some keys."""
    return Preprocessing.model_validate(Preprocessing.default(size).model_dump() | {"resized": size} | changes)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 16), (31, 50), (97, 64)])
def test_without_antialiasing_pixels_equal_those_of_torch_interpolated_in_float64(
    interpolation: str, size: tuple[int, int]
) -> None:
    for shape in SIZES:
        image = photo(*shape)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
        resized = F.interpolate(tensor, size, mode=interpolation, align_corners=False, antialias=False)
        expected = resized[0].round().clamp(0, 255).permute(1, 2, 0).numpy()
        found = fit_image(image, how(size, resize="squash", interpolation=interpolation, antialias=False))
        differs = found != expected
        assert differs.mean() < 5e-3  # a value halfway between two integers
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_blocks_of_rows_return_what_all_rows_do(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, preprocessing = photo(90, 70), how((33, 20), resize="squash", interpolation=interpolation, antialias=False)
    whole = fit_image(image, preprocessing)
    monkeypatch.setattr("ptqflow.fetch.resizing._BLOCK", 400)
    assert np.array_equal(fit_image(image, preprocessing), whole)


def test_without_antialiasing_pixels_are_within_a_level_of_torchvision_s_for_tensors() -> None:
    image = photo(403, 301)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = TF.center_crop(TF.resize(tensor, [40], antialias=False), [32, 32]).permute(1, 2, 0).numpy().astype(int)
    found = fit_image(image, how((32, 32), resized=(40, 40), resize="short_side", antialias=False))
    assert np.abs(found - expected).max() <= 1
    smooth = fit_image(image, how((32, 32), resized=(40, 40), resize="short_side"))
    assert np.abs(smooth - expected).max() > 20  # so the key changes what it says


def test_colors_count_by_their_opacity_with_and_without_antialiasing() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, ::2] = (200, 100, 50, 255)  # beside columns of transparent black
    for antialias in (True, False):
        small = fit_image(Image.fromarray(pixels), how((4, 4), color="RGBA", fill=(0,) * 4, antialias=antialias))
        assert np.abs(small[..., :3].astype(int) - (200, 100, 50)).max() <= 1, antialias
        assert np.abs(small[..., 3].astype(int) - 128).max() <= 40, antialias


def test_letterbox_shows_the_whole_image_in_the_middle_of_black() -> None:
    image = Image.new("RGB", (60, 20), (250, 120, 10))
    found = fit_image(image, how((48, 32), resize="letterbox"))
    inside = found[18:29]  # 20 * 32 / 60 = 10.67, so 11 rows, with 18 above and 19 below
    assert (inside == (250, 120, 10)).all()
    assert (found[:18] == 0).all()
    assert (found[29:] == 0).all()
    assert (fit_image(image.transpose(Image.Transpose.ROTATE_90), how((20, 60), resize="letterbox")) != 0).any()


def test_a_border_has_the_fill_of_each_channel() -> None:
    for color, fill, expected in (("L", (9,), [9]), ("RGB", (1, 2, 3), [1, 2, 3]), ("BGR", (1, 2, 3), [3, 2, 1])):
        found = fit_image(Image.new("RGB", (10, 40), "white"), how((8, 8), resize="letterbox", color=color, fill=fill))
        assert found[0, 0].tolist() == expected
        assert (found[:, 3:5] == 255).all()


def test_fit_takes_the_largest_part_of_its_proportions_and_of_that_the_center() -> None:
    image = photo(403, 301)
    for size, crop, box in (
        ((48, 32), (48, 32), ((403 - 301 * 2 / 3) / 2, 0, (403 + 301 * 2 / 3) / 2, 301)),
        ((32, 64), (32, 64), (0, (301 - 403 / 2) / 2, 403, (301 + 403 / 2) / 2)),
        ((32, 32), (40, 40), (201.5 - 0.4 * 301, 150.5 - 0.4 * 301, 201.5 + 0.4 * 301, 150.5 + 0.4 * 301)),
    ):
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box))
        found = fit_image(image, how(size, resized=crop))
        assert np.abs(found.astype(int) - expected).max() <= 1, size
        assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("resize", ["fit", "short_side", "squash", "letterbox"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_turned_by_exif_is_the_upright_one(resize: str, orientation: int) -> None:
    image = photo(403, 301)
    exif = Image.Exif()
    exif[0x0112] = orientation
    transposed = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    preprocessing = how((48, 32), resize=resize)
    expected = fit_image(image.transpose(transposed), preprocessing)
    assert np.array_equal(decode_image(encode(image, exif=exif), preprocessing), expected)


@pytest.mark.parametrize("upright", [True, False])
def test_a_large_jpeg_of_another_orientation_is_scaled_by_its_upright_sides(upright: bool) -> None:
    image, preprocessing = photo(1300, 500), how((16, 48))
    exif = Image.Exif()
    exif[0x0112] = 1 if upright else 6
    stored = image if upright else image.transpose(Image.Transpose.ROTATE_90)
    data = encode(stored, "JPEG", quality=95, exif=exif)
    found, expected = decode_image(data, preprocessing).astype(int), fit_image(image, preprocessing)
    assert np.abs(found - expected).mean() < 3


def test_bgr_is_rgb_in_the_other_order_from_a_file_an_image_and_an_array() -> None:
    rgb, bgr = how((16, 16)), how((16, 16), color="BGR")
    image = photo(64, 48)
    expected = fit_image(image, rgb)[..., ::-1]
    assert np.array_equal(fit_image(image, bgr), expected)
    assert np.array_equal(decode_image(encode(image), bgr), expected)
    assert np.array_equal(fit_arrays(np.array(image)[None], bgr)[0], expected)
    pixels = random_pixels(2, 16, 16, 3)
    assert np.array_equal(fit_arrays(pixels, bgr), pixels[..., ::-1])
    assert fit_arrays(pixels, bgr).flags.c_contiguous


def test_an_array_of_the_size_is_cropped_where_the_preprocessing_crops() -> None:
    cropped = how((16, 16), resized=(20, 20), resize="short_side")
    pixels = random_pixels(1, 16, 16, 3)
    expected = np.asarray(Image.fromarray(pixels[0]).resize((20, 20), Image.Resampling.BILINEAR))[2:18, 2:18]
    assert np.array_equal(fit_arrays(pixels, cropped)[0], expected)
    assert np.array_equal(fit_arrays(pixels, how((16, 16), resize="short_side")), pixels)


def test_an_image_so_thin_that_its_resize_would_fill_the_memory_is_refused_unless_it_is_cropped_first() -> None:
    data = encode(Image.new("RGB", (1, 5000), "white"))
    with pytest.raises(
        UnreadableImageError, match=r"1 x 5000 pixels, .* enlarges to 256 x 1280000 .* fit or letterbox"
    ):
        decode_image(data, how((224, 224), resized=(256, 256), resize="short_side"))
    for resize in ("fit", "squash", "letterbox"):
        assert decode_image(data, how((224, 224), resized=(256, 256), resize=resize)).shape == (224, 224, 3)
