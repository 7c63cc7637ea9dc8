import miniature
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from samples import random_pixels

from ptqflow.core.normalization import Channels, Normalization
from ptqflow.data.normalization import normalize
from ptqflow.data.preprocessing import to_input

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


@pytest.mark.parametrize("pixels", [EVERY_VALUE, miniature.images(20)], ids=["every value", "images"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ((0, 0, 0), (1, 1, 1)),
        ((0.1, 1.0, 0.3), (0.004, 1.0, 0.7)),
    ],
)
def test_input_equals_that_of_torch_bit_for_bit(pixels: NDArray[np.uint8], mean: Channels, std: Channels) -> None:
    batch = normalize(pixels, Normalization(mean=mean, std=std))

    assert batch.dtype == np.float32
    assert batch.flags["C_CONTIGUOUS"]
    assert np.array_equal(batch, to_input(torch.from_numpy(pixels), Normalization(mean=mean, std=std)).numpy())


def test_pixels_in_0_to_255_are_normalized_without_another_rounding_by_numpy_and_by_torch() -> None:
    normalization = Normalization(mean=(104.0, 117.0, 123.5), std=(1.0, 58.4, 57.1), input_range=255)
    pixels = miniature.images(20)
    expected = (pixels.astype(np.float32) - np.float32(normalization.mean)) / np.float32(normalization.std)
    for found in (
        normalize(pixels, normalization),
        to_input(torch.from_numpy(pixels), normalization).numpy(),
        to_input(torch.from_numpy(pixels), normalization, torch.channels_last).numpy(),
    ):
        assert np.array_equal(found, expected.transpose(0, 3, 1, 2))


def test_the_same_normalization_in_another_range_has_the_same_result_but_for_rounding() -> None:
    normalization = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    in_255 = normalization.in_range(255)
    assert in_255.mean == pytest.approx((123.675, 116.28, 103.53))
    assert in_255.in_range(255) is in_255
    assert np.allclose(normalize(EVERY_VALUE, in_255), normalize(EVERY_VALUE, normalization), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_input_of_any_number_of_channels_equals_that_of_torch_bit_for_bit(channels: int) -> None:
    pixels = random_pixels(20, 8, 8, channels)
    normalization = Normalization(mean=(0.1, 1.0, 0.3, 0.5)[:channels], std=(0.004, 1.0, 0.7, 0.2)[:channels])

    batch = normalize(pixels, normalization)

    assert batch.shape == (20, channels, 8, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert np.array_equal(batch, to_input(torch.from_numpy(pixels), normalization, layout).numpy())
