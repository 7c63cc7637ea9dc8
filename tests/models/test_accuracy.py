import dataclasses

import miniature
import numpy as np
import pytest
import torch
from fresh_process import convert_params
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from sklearn.utils.extmath import softmax
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.convert.quantize import quantize
from ptqflow.core.errors import DataError
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.models.accuracy import Evaluation, compute_logits, evaluate, predictions

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


@pytest.mark.parametrize("classes", [5, 6, 100])
@pytest.mark.parametrize("scale", [0.1, 3])
def test_figures_equal_those_of_scikit_learn(classes: int, scale: float) -> None:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 500)
    logits = random.normal(size=(500, classes)) * scale
    logits[np.arange(500), labels] += scale

    figures = evaluate(torch.from_numpy(logits), labels)

    every = np.arange(classes)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=every) if classes > 5 else 1
    assert figures.top1 == pytest.approx(accuracy_score(labels, logits.argmax(axis=1)), abs=1e-9)
    assert figures.top5 == pytest.approx(top5, abs=1e-9)
    assert figures.loss == pytest.approx(log_loss(labels, softmax(logits), labels=every), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_fewer_than_five_classes_leave_top5_out(classes: int) -> None:
    figures = evaluate(torch.eye(classes, dtype=torch.float64), np.arange(classes))

    assert figures.top5 is None
    assert list(figures.as_metrics()) == ["top1", "loss"]


def test_metrics_have_six_decimals() -> None:
    figures = Evaluation(top1=1 / 3, top5=2 / 3, loss=0.1234567)

    assert figures.as_metrics() == {"top1": 0.333333, "top5": 0.666667, "loss": 0.123457}


def test_of_equal_logits_the_first_class_counts() -> None:
    logits = torch.zeros(20, 20, dtype=torch.float64)
    logits[:, [7, 13]] = 1

    figures = evaluate(logits, np.arange(20))
    assert predictions(logits).tolist() == [7] * 20
    assert figures.top1 == 1 / 20
    assert figures.top5 == 5 / 20
    assert evaluate(logits[:5], np.array([7, 13, 0, 1, 2])).top5 == 1


@given(st.integers(1, 12), st.integers(5, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_ranks_are_those_of_a_stable_sort_however_many_logits_are_equal(
    count: int, classes: int, values: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.integers(-values, values, (count, classes)) * random.choice([1.0, -0.0, 1e-9]))
    labels = random.integers(0, classes, count)

    ranking = logits.argsort(dim=1, descending=True, stable=True).numpy()
    hits = ranking == labels[:, None]
    figures = evaluate(logits, labels)
    assert predictions(logits).tolist() == ranking[:, 0].tolist()
    assert predictions(logits).dtype == np.int64
    assert figures.top1 == hits[:, 0].mean()
    assert figures.top5 == hits[:, :5].any(axis=1).mean()


def test_logits_are_those_of_the_network_on_the_stored_order(fp32: nn.Module, split: Split) -> None:
    logits = logits_of(fp32, split, COUNT)

    with torch.inference_mode():
        expected = fp32(to_input(torch.from_numpy(split.images), miniature.NORMALIZATION))
    assert logits.dtype == torch.float64
    assert torch.equal(logits, expected.double())


class Passes(nn.Module):
    """Returns the mean of each channel, and keeps the number of images of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(len(x))
        return x.mean((2, 3))


@pytest.mark.parametrize(("size", "batch_size", "passes"), [(8, 4, [4, 4, 1]), (8, 256, [9]), (1024, 256, [4, 4, 1])])
def test_large_images_go_through_the_network_in_smaller_batches(size: int, batch_size: int, passes: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), dtype=np.uint8)
    model = Passes()

    logits = logits_of(model, dataclasses.replace(miniature.split(9), images=pixels), batch_size)
    assert model.images == passes
    expected = to_input(torch.from_numpy(pixels), miniature.NORMALIZATION).mean((2, 3))
    assert torch.allclose(logits, expected.double(), atol=1e-5)


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
    spoilt = dataclasses.replace(split, images=images)

    with pytest.raises(DataError, match=r"^int8_uncalibrated: the output for image 40 is not finite$"):
        compute_logits(Spoilt(value), spoilt, miniature.NORMALIZATION, 16, "int8_uncalibrated")
