import miniature
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from ptqflow.training.augmentation import crop_and_flip, draw_epoch


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


def test_the_images_are_left_as_they_are_and_no_images_give_none() -> None:
    images, draws = batch(40), draw_epoch(40, 2, flip=True, seed=0, epoch=1)

    assert crop_and_flip(images, draws.places, draws.mirrored, 2).dtype == torch.uint8
    assert torch.equal(images, batch(40))
    assert crop_and_flip(images[:0], draws.places[:0], draws.mirrored[:0], 2).shape == images[:0].shape


def test_an_epoch_sees_every_image_once_and_draws_all_places_alike() -> None:
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


def test_seed_and_epoch_alone_decide() -> None:
    first, again = (draw_epoch(100, 4, flip=True, seed=3, epoch=2) for _ in range(2))
    others = [draw_epoch(100, 4, flip=True, seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (2, 3), (0, 2))]

    assert torch.equal(first.order, again.order)
    assert torch.equal(first.places, again.places)
    assert torch.equal(first.mirrored, again.mirrored)
    assert not any(torch.equal(first.order, other.order) for other in others)
