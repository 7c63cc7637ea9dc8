"""The data section: what is allowed, key by key and between keys."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from samples import data_params, fitted

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.fetch.params import DataParams


def read(**changes: object) -> DataParams:
    YAML().dump({"data": data_params().model_dump() | changes}, Path("params.yaml"))
    return read_params("data", DataParams)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 8),
        ("image_size", 4096),
        ("channels", 1),
        ("channels", 4),
        ("limit", 2),
        ("limit", None),
        ("val_fraction", 0.001),
        ("test_fraction", 0.999),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("on_bad_image", "skip"),
        ("encoding", "cp866"),
        ("encoding", "UTF-8"),
    ],
)
def test_the_ends_of_what_is_allowed_are_allowed(key: str, value: object) -> None:
    assert getattr(read(**{key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "name",
            "mnist",
            "data.name is 'mnist': input should be 'digits', 'cifar10', 'cifar100', 'fashion_mnist', 'image_folder'",
        ),
        ("path", 7, "data.path is 7: input should be a valid string"),
        ("path", "", "data.path is '': string should have at least 1 character"),
        (
            "encoding",
            "cp86",
            "data.encoding is 'cp86': not an encoding of Python's that extends ASCII; did you mean cp86",
        ),
        ("encoding", "gkb", "did you mean gbk?"),
        ("encoding", "utf-16", "data.encoding is 'utf-16': not an encoding of Python's that extends ASCII"),
        ("encoding", "base64", "extends ASCII; such as utf-8, gbk, shift_jis or cp866"),
        ("image_size", 7, "data.image_size is 7: neither an integer from 8 to 4096 nor [height, width] of two such"),
        (
            "image_size",
            [32, 4097],
            "data.image_size is [32, 4097]: neither an integer from 8 to 4096 nor [height, width]",
        ),
        ("image_size", 32.0, "data.image_size is 32.0: neither an integer from 8 to 4096 nor [height, width]"),
        ("image_size", "32", "data.image_size is '32': neither"),
        ("image_size", [32], "data.image_size is [32]: neither"),
        ("image_size", True, "data.image_size is True: neither"),
        ("resize", "stretch", "data.resize is 'stretch': input should be 'fit', 'short_side', 'squash' or 'letterbox'"),
        ("crop", 1.0, "data.crop is 1.0: neither a number between 0 and 1, such as 0.875, nor an integer from 8 to"),
        ("crop", 0, "data.crop is 0: neither"),
        ("crop", 9000, "data.crop is 9000: neither"),
        ("interpolation", "nearest", "data.interpolation is 'nearest': input should be 'bilinear', 'bicubic' or"),
        ("antialias", 1, "data.antialias is 1: input should be a valid boolean"),
        ("channel_order", "GBR", "data.channel_order is 'GBR': input should be 'RGB' or 'BGR'"),
        ("channels", 2, "data.channels is 2: input should be 1, 3 or 4"),
        ("limit", 1, "data.limit is 1: input should be greater than or equal to 2"),
        ("val_fraction", 0, "data.val_fraction is 0: input should be greater than 0"),
        ("val_fraction", 1, "data.val_fraction is 1: input should be less than 1"),
        ("test_fraction", -0.1, "data.test_fraction is -0.1: input should be greater than 0"),
        ("seed", -1, "data.seed is -1: input should be greater than or equal to 0"),
        ("seed", 2**32, "data.seed is 4294967296: input should be less than 4294967296"),
        ("on_bad_image", "ignore", "data.on_bad_image is 'ignore': input should be 'error' or 'skip'"),
    ],
)
def test_what_is_beyond_is_named_with_what_is_allowed(key: str, value: object, words: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read(**{key: value})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"channel_order": "BGR", "channels": 1}, "data.channel_order=BGR is of 3 channels, and data.channels is 1"),
        (
            {"interpolation": "lanczos", "antialias": False},
            "data.interpolation=lanczos does not exist with data",
        ),
        ({"image_size": 224, "crop": 224}, "data.crop is 224, the pixels of the short side before 224x224 are cropped"),
        ({"image_size": [48, 32], "crop": 32}, "before 48x32 are cropped from it, so it must be more"),
    ],
)
def test_keys_that_contradict_one_another_are_one_line_with_both(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read(**keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"resize": "letterbox", "interpolation": "lanczos"}, {"resize": "letterbox", "interpolation": "lanczos"}),
        ({"antialias": False}, {"antialias": False}),
        ({"channel_order": "BGR"}, {"color": "BGR"}),
        ({"image_size": 224, "crop": 256}, {"height": 224, "width": 224, "resized": (256, 256)}),
        ({"image_size": 224, "crop": 0.875}, {"height": 224, "width": 224, "resized": (256, 256)}),
        ({"image_size": 224, "crop": 0.95}, {"height": 224, "width": 224, "resized": (235, 235)}),
        ({"image_size": [48, 32], "crop": 40}, {"height": 48, "width": 32, "resized": (60, 40)}),
        ({"image_size": [48, 32]}, {"height": 48, "width": 32, "resized": (48, 32)}),
    ],
)
def test_the_keys_make_a_preprocessing(keys: dict[str, object], expected: dict[str, object]) -> None:
    assert data_params(**keys).preprocessing() == fitted(16).model_copy(update=expected)


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("image_folder", None, "data.name=image_folder needs data.path: the folder or archive that holds the images"),
        (
            "digits",
            "photos",
            "data.path=photos is not used with data.name=digits; set data.name=image_folder for your own",
        ),
    ],
)
def test_a_path_that_does_not_go_with_the_name_is_reported_without_the_other_keys(
    name: str, path: str | None, words: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        read(name=name, path=path)
    assert words in str(caught.value)
    assert "image_size" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"), [("digits", None), ("cifar10", None), ("cifar10", "x"), ("image_folder", "x")]
)
def test_the_other_combinations_are_allowed(name: str, path: str | None) -> None:
    assert read(name=name, path=path).path == path
