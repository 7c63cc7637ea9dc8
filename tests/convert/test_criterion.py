"""The score of an INT8 network, and the images that it is measured on."""

import math

import miniature
import numpy as np
import pytest
import torch

from ptqflow.convert.criterion import Images, Score, draw_images
from ptqflow.models.canonical import canonicalize


def test_half_of_the_score_is_the_mean_of_the_images_own_sqnr_half_that_of_all_together() -> None:
    exact = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 1.0]])
    logits = exact + torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.0, 0.0]])

    score = Images(torch.arange(3.0)[:, None], exact, 2).score(lambda part: logits[part[:, 0].long()])

    assert score.images_db.tolist() == pytest.approx([20.0, 40.0, 100.0])
    assert score.together_db == pytest.approx(10 * math.log10((25 + 2500 + 1) / 0.5))
    assert score.db == pytest.approx((160 / 3 + score.together_db) / 2)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [([1.0, 1.2, 0.8, 1.1], True), ([3.0, -2.0, 2.5, -2.4], False), ([0.0] * 4, False), ([-1.0] * 4, False)],
)
def test_a_score_is_better_only_by_more_than_chance(gains: list[float], expected: bool) -> None:
    before = torch.tensor([20.0, 25.0, 30.0, 35.0], dtype=torch.float64)
    after = before + torch.tensor(gains, dtype=torch.float64)

    assert Score(after, 30 + sum(gains) / 4).is_better(Score(before, 30.0)) is expected


def test_one_image_is_enough_for_a_comparison() -> None:
    one, other = (Score(torch.tensor([db], dtype=torch.float64), db) for db in (20.0, 21.0))
    assert other.is_better(one)
    assert not one.is_better(other)


@pytest.mark.parametrize(("count", "held_out"), [(300, 128), (140, 12), (128, 0), (20, 0)])
def test_the_images_that_decide_and_the_held_out_ones_are_calibration_images_that_differ(
    count: int, held_out: int
) -> None:
    torch.manual_seed(0)
    model = canonicalize(miniature.residual(6), miniature.INPUT_SHAPE)
    train, rows = miniature.split(count), np.arange(count)[::-1].reshape(-1, 20 if count != 128 else 16)

    decide, other = draw_images(model, miniature.NORMALIZATION, train, rows)

    assert len(decide.inputs) == min(count, 128)
    assert (len(other.inputs) if other else 0) == held_out
    with torch.inference_mode():
        assert torch.equal(model(decide.inputs), decide.exact)
    if other:
        assert not {*map(tuple, other.inputs.flatten(1).tolist())} & {*map(tuple, decide.inputs.flatten(1).tolist())}
