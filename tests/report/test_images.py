import base64
import io

import miniature
import numpy as np
import pytest
from PIL import Image
from samples import random_pixels

from ptqflow.data.dataset import Split, digests_of
from ptqflow.evaluate.predictions import Prediction
from ptqflow.report.images import BLUE, changed_images, image_uri, matrix_uri


def decode(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert head == f"data:image/{str(image.format).lower()};base64"
    return image


CARD = miniature.DATASET_CARD


def predictions(predicted: list[int], margin: list[float]) -> Prediction:
    margins = np.array(margin, dtype=np.float32)
    return Prediction(np.array(predicted, dtype=np.int64), margins, margins)


def test_changed_images_come_by_the_sum_of_both_margins() -> None:
    fp32 = predictions([0, 1, 2, 0, 1], [0.125, 0.875, 0.75, 0.375, 0.25])
    int8 = predictions([1, 1, 0, 1, 0], [0.625, 0.875, 0.125, 0.25, 0.375])
    pixels = random_pixels(5, 8, 8, 3)
    test = Split(pixels, np.array([0, 1, 1, 0, 1]), digests_of(pixels))

    changed = changed_images(test, CARD.classes, "RGB", fp32, int8)

    assert [image.row for image in changed] == [2, 0, 3, 4]  # of equal margins the first in the test set
    first = changed[0]
    assert (first.label, first.fp32, first.int8) == ("bee", "cat", "ant")
    assert (first.fp32_margin, first.int8_margin) == (0.75, 0.125)
    assert np.array_equal(np.asarray(decode(first.uri)), pixels[2])


def test_a_changed_image_is_shown_in_its_colors_where_it_is_stored_as_bgr() -> None:
    pixels = random_pixels(1, 8, 8, 3)
    (shown,) = changed_images(
        Split(pixels, np.zeros(1, np.int64), digests_of(pixels)),
        CARD.classes,
        "BGR",
        predictions([0], [0.5]),
        predictions([1], [0.5]),
    )
    assert np.array_equal(np.asarray(decode(shown.uri)), pixels[0, :, :, ::-1])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_grey_images_and_those_with_opacity_keep_their_pixels_where_small(channels: int, mode: str) -> None:
    pixels = random_pixels(8, 8, channels)
    image = decode(image_uri(pixels))
    assert (image.mode, image.format) == (mode, "PNG")
    assert np.array_equal(np.asarray(image).reshape(8, 8, channels), pixels)


def test_a_large_transparent_image_is_white_and_a_large_grey_one_grey() -> None:
    for pixels, value, mode in (
        (np.zeros((400, 400, 4), np.uint8), 255, "RGB"),
        (np.full((400, 400, 1), 77, np.uint8), 77, "L"),
    ):
        image = decode(image_uri(pixels))
        assert (image.mode, image.format, image.size) == (mode, "JPEG", (160, 160))
        assert (np.asarray(image) == value).all()


def test_twenty_four_are_shown_and_none_where_nothing_changed() -> None:
    fp32, int8 = predictions([0] * 30, [0.5] * 30), predictions([1] * 30, [0.5] * 30)
    pixels = random_pixels(30, 8, 8, 3)
    test = Split(pixels, np.zeros(30, dtype=np.int64), digests_of(pixels))

    assert len(changed_images(test, CARD.classes, "RGB", fp32, int8)) == 24
    assert changed_images(test, CARD.classes, "RGB", fp32, fp32) == []


@pytest.mark.parametrize(
    ("side", "kind", "shown"), [(8, "PNG", 8), (160, "PNG", 160), (161, "JPEG", 160), (2000, "JPEG", 160)]
)
def test_large_images_are_scaled_down_and_small_ones_kept(side: int, kind: str, shown: int) -> None:
    image = decode(image_uri(random_pixels(side, side, 3)))
    assert (image.format, image.size) == (kind, (shown, shown))


def test_a_matrix_is_an_image_of_one_pixel_a_cell() -> None:
    image = decode(matrix_uri(np.array([[0, 100], [25, 1]])))
    empty, most, quarter, one = np.asarray(image.convert("RGBA")).reshape(4, 4).tolist()

    assert image.mode == "RGBA"
    assert empty[3] == 0
    assert most == [*BLUE, 255]
    assert quarter == [*BLUE, 64 + 96]
    assert one[:3] == list(BLUE)
    assert 64 < one[3] < 100


def test_an_empty_matrix_is_transparent() -> None:
    assert np.asarray(decode(matrix_uri(np.zeros((3, 3), dtype=np.int64))))[..., 3].max() == 0
