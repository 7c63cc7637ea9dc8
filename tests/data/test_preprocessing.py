import miniature
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import Compose, Normalize, ToTensor

from ptqflow.core.normalization import Channels, Normalization
from ptqflow.data.dataset import Split, digests_of
from ptqflow.data.preprocessing import first_images, to_input

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)


@pytest.mark.parametrize("pixels", [EVERY_VALUE, miniature.images(20)], ids=["every value", "images"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0, 0, 0), (1, 1, 1)), ((0.1, 1.0, 0.3), (0.004, 1.0, 0.7))],
)
def test_input_equals_that_of_torchvision_bit_for_bit(pixels: NDArray[np.uint8], mean: Channels, std: Channels) -> None:
    torchvision = Compose([ToTensor(), Normalize(mean, std)])

    batch = to_input(torch.from_numpy(pixels), Normalization(mean=mean, std=std))

    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.stack([torchvision(image) for image in pixels]))


def test_the_images_are_left_unchanged() -> None:
    images = torch.from_numpy(miniature.images(4))
    before = images.clone()

    to_input(images, miniature.NORMALIZATION)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("size", "count"), [(8, 32), (256, 8), (1024, 1)])
def test_the_first_images_are_few_where_they_are_large(size: int, count: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images = np.repeat(np.repeat(pixels, size // 8, axis=1), size // 8, axis=2) if size > 8 else pixels
    split = Split(images, np.zeros(40, np.int64), digests_of(images))

    found = first_images(split, miniature.NORMALIZATION)

    assert torch.equal(found, to_input(torch.from_numpy(images[:count]), miniature.NORMALIZATION))
