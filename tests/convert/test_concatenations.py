import pytest
import torch
from fresh_process import collect, convert_params, decibels
from miniature import INPUT_SHAPE, card, split
from torch import Tensor, nn

from ptqflow.convert.concatenations import unequal_concatenations
from ptqflow.convert.quantize import quantize
from ptqflow.data.fidelity import sqnr_db
from ptqflow.fx.prepare import EVERYTHING, prepare
from ptqflow.models.canonical import canonicalize


class Concatenating(nn.Module):
    """Two convolutions, one with outputs some times as large, side by side into a normalization that levels them."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.norm, self.head = nn.BatchNorm2d(12), nn.Conv2d(12, 6, 6)
        with torch.no_grad():
            self.right.weight *= ratio
            self.norm.running_var[:6], self.norm.running_var[6:] = 0.3, 0.3 * ratio**2

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1))).flatten(1)


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, ()), (3.0, ()), (20.0, ("cat",)), (0.01, ("cat",))])
def test_concatenations_of_magnitudes_more_than_four_times_apart_are_found(
    ratio: float, expected: tuple[str, ...], inputs: list[Tensor]
) -> None:
    torch.manual_seed(0)
    model = canonicalize(Concatenating(ratio), INPUT_SHAPE)
    found = unequal_concatenations(model, prepare(model, INPUT_SHAPE, EVERYTHING), collect(model, inputs))
    assert found == expected


def test_the_smaller_one_is_not_rounded_away(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, images = canonicalize(Concatenating(100.0), INPUT_SHAPE), torch.cat(inputs)

    made = quantize(model, card(), convert_params(head="int8"), collect(model, inputs), split(40))

    assert made.scheme.unequal == ("cat",)
    with torch.inference_mode():
        ratio = sqnr_db(made.converted(images), model(images))
    assert ratio
    assert ratio > decibels(30, made.scheme.engine)
