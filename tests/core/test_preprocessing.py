"""The card of the preprocessing: its words, its shape, and what it refuses."""

import pytest
from pydantic import ValidationError

from ptqflow.core.preprocessing import Preprocessing


def card(**changes: object) -> Preprocessing:
    return Preprocessing.model_validate(Preprocessing.default((48, 32)).model_dump() | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "cropped at the center to the proportions of 48x32, resized to 48x32 (bilinear), RGB"),
        (
            {"resize": "squash", "antialias": False},
            "resized to 48x32 whatever its proportions (bilinear, no antialiasing), RGB",
        ),
        (
            {"height": 224, "width": 224, "resized": (256, 256), "resize": "short_side", "interpolation": "bicubic"},
            "short side resized to 256 (bicubic), cropped at the center to 224x224, RGB",
        ),
        (
            {"resize": "short_side", "resized": (60, 40)},
            "resized to cover 60x40 (bilinear), cropped at the center to 48x32, RGB",
        ),
        (
            {"resize": "letterbox", "color": "BGR", "fill": (1, 2, 3)},
            "resized to fit into 48x32 (bilinear), surrounded with 1/2/3 to 48x32, BGR",
        ),
    ],
)
def test_the_words_say_all_that_changes_a_pixel(changes: dict[str, object], words: str) -> None:
    assert str(card(**changes)) == words


@pytest.mark.parametrize(
    ("color", "mode", "channels"), [("L", "L", 1), ("RGB", "RGB", 3), ("BGR", "RGB", 3), ("RGBA", "RGBA", 4)]
)
def test_the_shape_follows_from_size_and_color(color: str, mode: str, channels: int) -> None:
    found = card(color=color, fill=(0,) * channels)
    assert (found.mode, found.input_shape, found.size) == (mode, (channels, 48, 32), (48, 32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0}, "height"),
        ({"width": 4097}, "width"),
        ({"resized": (48, 8193)}, "resized"),
        ({"resized": (48,)}, "resized"),
        ({"fill": (0, 0)}, "fill has 2 values, and RGB has 3 channels"),
        ({"fill": (0, 0, 256)}, "fill"),
        ({"color": "GBR"}, "color"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"interpolation": "lanczos", "antialias": False}, "lanczos without antialiasing does not exist"),
        ({"mean": 0.5}, "mean"),
    ],
)
def test_what_no_image_can_become_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        card(**changes)
