import dataclasses

import miniature
import numpy as np
import pytest
import torch
from fresh_process import convert_params
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.convert.quantize import quantize
from ptqflow.core.errors import DataError
from ptqflow.data.accuracy import evaluate
from ptqflow.data.dataset import Split, digests_of
from ptqflow.data.preprocessing import to_input
from ptqflow.models.logits import compute_logits

COUNT = 103


@pytest.fixture(scope="module")
def split() -> Split:
    return miniature.split(COUNT)


@pytest.fixture(scope="module")
def fp32() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(len(miniature.CLASSES)).eval()


@pytest.fixture(scope="module")
def int8(fp32: nn.Module, split: Split) -> nn.Module:
    inputs = to_input(torch.from_numpy(split.images[:100]), miniature.NORMALIZATION)
    statistics = collect_statistics(
        observe(fp32, miniature.INPUT_SHAPE), inputs.split(20), np.arange(100).reshape(5, 20)
    )
    return quantize(fp32, miniature.card(), convert_params(head="int8"), statistics, split).converted


def logits_of(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    return compute_logits(model, split, miniature.NORMALIZATION, batch_size, "test")


def test_logits_are_those_of_the_network_on_the_stored_order(fp32: nn.Module, split: Split) -> None:
    logits = logits_of(fp32, split, COUNT)

    with torch.inference_mode():
        expected = fp32(to_input(torch.from_numpy(split.images), miniature.NORMALIZATION))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


class Passes(nn.Module):
    """Returns the mean of each channel, and keeps the number of images of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(len(x))
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("size", "batch_size", "passes"), [(8, 4, [4, 4, 1]), (8, 256, [9]), (700, 256, [2, 2, 2, 2, 1])]
)
def test_large_images_go_through_the_network_in_smaller_batches(size: int, batch_size: int, passes: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), dtype=np.uint8)
    model = Passes()

    logits = logits_of(
        model, dataclasses.replace(miniature.split(9), images=pixels, digests=digests_of(pixels)), batch_size
    )
    assert model.images == passes
    expected = to_input(torch.from_numpy(pixels), miniature.NORMALIZATION).mean((2, 3))
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 10, 64, COUNT - 1, COUNT, 1000])
def test_reported_figures_do_not_depend_on_the_batch_size(
    fp32: nn.Module, int8: nn.Module, split: Split, batch_size: int
) -> None:
    for model in (fp32, int8):
        figures = [evaluate(logits_of(model, split, size), split.labels).as_metrics() for size in (batch_size, 32)]
        assert figures[0] == figures[1]
    assert torch.equal(logits_of(int8, split, batch_size), logits_of(int8, split, 32)), "INT8 has no rounding to differ"


def test_the_network_is_evaluated_in_evaluation_mode(fp32: nn.Module, split: Split) -> None:
    expected = logits_of(fp32, split, 32)

    before = {name: tensor.clone() for name, tensor in fp32.state_dict().items()}
    assert torch.equal(logits_of(fp32.train(), split, 32), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fp32.state_dict().items())


class Spoilt(nn.Module):
    """Returns a value that is not finite for images with a bright first pixel."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        scores = x.flatten(1)[:, :6].clone()
        scores[x[:, 0, 0, 0] > 0, 2] = self.value
        return scores


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_output_that_is_not_finite_names_the_network_and_the_first_image(value: float, split: Split) -> None:
    images = split.images.copy()
    images[:, 0, 0, 0] = 0
    images[[90, 40], 0, 0, 0] = 255
    spoilt = dataclasses.replace(split, images=images, digests=digests_of(images))

    with pytest.raises(DataError, match=r"^int8_uncalibrated: the output for image 40 is not finite$"):
        compute_logits(Spoilt(value), spoilt, miniature.NORMALIZATION, 16, "int8_uncalibrated")
