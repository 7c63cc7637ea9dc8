import miniature
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from ptqflow.train.augmentation import crop_and_flip, cut_out, draw_epoch


def batch(count: int) -> Tensor:
    return torch.from_numpy(miniature.images(count))


def torchvision_crop_and_flip(image: Tensor, padding: int, top: int, left: int, mirrored: bool) -> Tensor:
    height, width, _ = image.shape
    cut = functional.crop(functional.pad(image.permute(2, 0, 1), [padding]), top, left, height, width)
    return (functional.hflip(cut) if mirrored else cut).permute(1, 2, 0)


@pytest.mark.parametrize("padding", [0, 1, 4, 11])
@pytest.mark.parametrize("shape", [(60, 8, 8, 3), (60, 5, 9, 3), (2, 16, 3, 1)], ids=["square", "oblong", "narrow"])
def test_every_image_equals_torchvisions_pixel_by_pixel(padding: int, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = draw_epoch(len(images), padding, flip=True, seed=0, epoch=1)

    result = crop_and_flip(images, draws.places, draws.mirrored, padding)

    for image, (top, left), mirrored, augmented in zip(images, draws.places, draws.mirrored, result, strict=True):
        expected = torchvision_crop_and_flip(image, padding, int(top), int(left), bool(mirrored))
        assert torch.equal(augmented, expected)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("shape", [(200, 3, 8, 8), (200, 3, 5, 9), (2, 1, 3, 16)], ids=["square", "oblong", "narrow"])
def test_cutout_equals_torchvisions_erase_pixel_by_pixel(side: int, shape: tuple[int, ...]) -> None:
    height, width = shape[2:]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    hidden = draw_epoch(len(inputs), 0, flip=False, seed=0, epoch=1).hidden

    result = inputs.clone()
    cut_out(result, hidden, side)

    for image, (down, across), augmented in zip(inputs, hidden, result, strict=True):
        top, left = int(down * height) - side // 2, int(across * width) - side // 2
        bottom, right = min(top + side, height), min(left + side, width)
        top, left = max(top, 0), max(left, 0)
        assert torch.equal(augmented, functional.erase(image, top, left, bottom - top, right - left, 0.0))


def test_cutout_masks_every_pixel_equally_often() -> None:
    inputs = torch.ones(6400, 1, 8, 8)
    hidden = draw_epoch(6400, 0, flip=False, seed=0, epoch=1).hidden
    cut_out(inputs, hidden, 1)
    counts = (inputs == 0).sum(dim=(0, 1)).flatten()
    assert counts.sum() == 6400
    assert all(50 < count < 150 for count in counts), "100 each within five standard deviations"


def test_the_smallest_and_largest_draws_lie_within_the_image() -> None:
    hidden = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])  # the smallest and the largest value of torch.rand
    for size in (8, 224, 1000):
        shown = torch.ones(2, 1, size, size)
        cut_out(shown, hidden, 1)
        assert (shown[0, 0, 0, 0], shown[1, 0, -1, -1]) == (0, 0)
        assert shown.sum() == 2 * size * size - 2


def test_the_images_stay_unchanged_and_no_images_are_augmented_to_none() -> None:
    images, draws = batch(40), draw_epoch(40, 2, flip=True, seed=0, epoch=1)

    assert crop_and_flip(images, draws.places, draws.mirrored, 2).dtype == torch.uint8
    assert torch.equal(images, batch(40))
    assert crop_and_flip(images[:0], draws.places[:0], draws.mirrored[:0], 2).shape == images[:0].shape
    cut_out(torch.ones(0, 3, 8, 8), draws.hidden[:0], 4)


def test_an_epoch_sees_every_image_once_and_draws_all_crops_equally_often() -> None:
    draws = draw_epoch(9000, 1, flip=True, seed=0, epoch=1)

    assert torch.equal(draws.order.sort().values, torch.arange(9000))
    counts = torch.bincount(draws.places @ torch.tensor([3, 1]), minlength=9)
    assert len(counts) == 9
    assert all(850 < count < 1150 for count in counts), "1000 each within five standard deviations"
    assert 0.474 < draws.mirrored.double().mean() < 0.526, "one half within five standard deviations"


def test_without_flip_nothing_is_mirrored_and_without_padding_all_places_are_the_corner() -> None:
    draws = draw_epoch(500, 0, flip=False, seed=0, epoch=1)

    assert not draws.mirrored.any()
    assert not draws.places.any()


def test_the_draws_depend_on_seed_and_epoch_alone() -> None:
    first, again = (draw_epoch(100, 4, flip=True, seed=3, epoch=2) for _ in range(2))
    others = [draw_epoch(100, 4, flip=True, seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (2, 3), (0, 2))]

    assert torch.equal(first.order, again.order)
    assert torch.equal(first.places, again.places)
    assert torch.equal(first.mirrored, again.mirrored)
    assert torch.equal(first.hidden, again.hidden)
    assert not any(torch.equal(first.order, other.order) for other in others)
