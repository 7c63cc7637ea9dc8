from collections import Counter
from collections.abc import Callable

import miniature
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional

from ptqflow.augmentation import random_crop, random_flip

Augment = Callable[[Tensor, torch.Generator], Tensor]


def batch(count: int) -> Tensor:
    return torch.from_numpy(miniature.images(count))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvision_crop(image: Tensor, padding: int, top: int, left: int) -> Tensor:
    height, width, _ = image.shape
    padded = functional.pad(image.permute(2, 0, 1), [padding])
    return functional.crop(padded, top, left, height, width).permute(1, 2, 0)


@pytest.mark.parametrize("padding", [1, 4, 11])
def test_every_crop_equals_torchvisions_at_the_place_that_the_generator_draws(padding: int) -> None:
    images = batch(60)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, 60, 1), generator=seeded()).flatten(1).tolist()

    expected = [
        torchvision_crop(image, padding, top, left) for image, top, left in zip(images, tops, lefts, strict=True)
    ]
    assert torch.equal(random_crop(images, padding, seeded()), torch.stack(expected))


def test_crops_of_oblong_images_keep_height_and_width_apart() -> None:
    images = torch.arange(2 * 3 * 5 * 3, dtype=torch.uint8).view(2, 3, 5, 3)
    crops = random_crop(images, 2, seeded())

    for image, crop in zip(images, crops, strict=True):
        places = [torchvision_crop(image, 2, top, left) for top in range(5) for left in range(5)]
        assert any(torch.equal(crop, place) for place in places)


def test_all_places_are_equally_likely() -> None:
    image = batch(1)[0]
    places = [torchvision_crop(image, 1, top, left).numpy().tobytes() for top in range(3) for left in range(3)]

    counts = Counter(crop.numpy().tobytes() for crop in random_crop(image.expand(9000, -1, -1, -1), 1, seeded()))

    assert counts.keys() == set(places)
    assert all(850 < count < 1150 for count in counts.values()), "1000 each within five standard deviations"


def test_half_of_the_images_are_flipped_as_torchvision_does() -> None:
    images = batch(4000)
    flipped = random_flip(images, seeded())

    mirrored = functional.hflip(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    is_mirrored = (flipped == mirrored).flatten(1).all(dim=1)
    assert torch.equal(flipped[~is_mirrored], images[~is_mirrored])
    assert 0.46 < is_mirrored.double().mean() < 0.54, "one half within five standard deviations"


def test_no_padding_crops_nothing() -> None:
    assert torch.equal(random_crop(batch(5), 0, seeded()), batch(5))


@pytest.mark.parametrize(
    "augment", [lambda images, generator: random_crop(images, 2, generator), random_flip], ids=["crop", "flip"]
)
def test_the_seed_alone_decides_and_the_images_are_left_as_they_are(augment: Augment) -> None:
    images = batch(40)

    first, second = augment(images, seeded(1)), augment(images, seeded(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, seeded(2)))
    assert torch.equal(images, batch(40))
    assert first.dtype == torch.uint8
