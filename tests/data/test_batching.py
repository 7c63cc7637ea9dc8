"""How many images are processed together."""

import pytest

from ptqflow.data.batching import images_together


@pytest.mark.parametrize("size", [8, 31, 32, 224, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("pixels", [1 << 18, 1 << 20])
def test_as_many_images_as_the_budget_holds_and_never_none(size: int, pixels: int) -> None:
    count = images_together(size, pixels)
    assert count == 1 or count * size**2 <= pixels
    assert (count + 1) * size**2 > pixels


def test_the_budgets_in_use_hold_the_usual_numbers_at_32_pixels() -> None:
    assert [images_together(32, 1 << bits) for bits in (17, 18, 20, 22)] == [128, 256, 1024, 4096]
