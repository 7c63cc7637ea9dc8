"""How many images are processed together."""

import numpy as np
import pytest

from ptqflow.data.batching import images_per_pass, images_together, in_blocks


@pytest.mark.parametrize("size", [8, 31, 32, 224, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("pixels", [1 << 18, 1 << 20])
def test_as_many_images_as_the_budget_holds_and_never_none(size: int, pixels: int) -> None:
    count = images_together((size, size), pixels)
    assert count == 1 or count * size**2 <= pixels
    assert (count + 1) * size**2 > pixels


def test_the_pixels_of_a_rectangle_count() -> None:
    assert images_together((48, 32), 1 << 17) == images_together((32, 48), 1 << 17) == (1 << 17) // (48 * 32)


def test_the_budgets_in_use_hold_the_usual_numbers_at_32_pixels() -> None:
    assert [images_together((32, 32), 1 << bits) for bits in (17, 18, 20, 22)] == [128, 256, 1024, 4096]


@pytest.mark.parametrize(
    ("size", "most", "count"),
    [
        (32, 256, 256),
        (64, 256, 256),
        (90, 256, 129),
        (224, 256, 20),
        (512, 256, 4),
        (1024, 256, 1),
        (1024, 1, 1),
        (2048, 256, 1),
        (4096, 256, 1),
    ],
)
def test_a_pass_has_the_number_asked_for_until_the_images_are_large(size: int, most: int, count: int) -> None:
    assert images_per_pass((size, size), most) == count


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 1000])
def test_blocks_of_rows_return_what_all_rows_do(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptqflow.data.batching._NUMBERS_PER_BLOCK", 8)
    sizes = []
    values, labels = np.arange(2.0 * rows).reshape(rows, 2), np.arange(rows)

    def add(block: np.ndarray, of_labels: np.ndarray) -> np.ndarray:
        sizes.append(len(block))
        return block.sum(axis=1) + of_labels

    assert np.array_equal(in_blocks(add, values, labels), values.sum(axis=1) + labels)
    assert max(sizes) <= 4
