import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from sklearn.utils.extmath import softmax
from torch.nn import functional as F

from ptqflow.data.accuracy import Evaluation, evaluate, predictions


@pytest.mark.parametrize("classes", [5, 6, 100])
@pytest.mark.parametrize("scale", [0.1, 3])
def test_figures_equal_those_of_scikit_learn(classes: int, scale: float) -> None:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 500)
    logits = random.normal(size=(500, classes)) * scale
    logits[np.arange(500), labels] += scale

    figures = evaluate(logits, labels)

    every = np.arange(classes)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=every) if classes > 5 else 1
    assert figures.top1 == pytest.approx(accuracy_score(labels, logits.argmax(axis=1)), abs=1e-9)
    assert figures.top5 == pytest.approx(top5, abs=1e-9)
    assert figures.loss == pytest.approx(log_loss(labels, softmax(logits), labels=every), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_fewer_than_five_classes_leave_top5_out(classes: int) -> None:
    figures = evaluate(np.eye(classes), np.arange(classes))

    assert figures.top5 is None
    assert list(figures.as_metrics()) == ["top1", "loss"]


def test_metrics_have_six_decimals() -> None:
    figures = Evaluation(top1=1 / 3, top5=2 / 3, loss=0.1234567)

    assert figures.as_metrics() == {"top1": 0.333333, "top5": 0.666667, "loss": 0.123457}


def test_of_equal_logits_the_first_class_counts() -> None:
    logits = np.zeros((20, 20))
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
    logits = random.integers(-values, values, (count, classes)) * random.choice([1.0, -0.0, 1e-9])
    labels = random.integers(0, classes, count)

    ranking = (-logits).argsort(axis=1, kind="stable")
    hits = ranking == labels[:, None]
    figures = evaluate(logits, labels)
    assert predictions(logits).tolist() == ranking[:, 0].tolist()
    assert predictions(logits).dtype == np.int64
    assert figures.top1 == hits[:, 0].mean()
    assert figures.top5 == hits[:, :5].any(axis=1).mean()


def test_tensors_of_torch_have_the_figures_of_arrays_and_the_loss_of_cross_entropy() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = np.arange(50) % 7

    figures = evaluate(logits, labels)
    assert figures == evaluate(logits.numpy(), labels)
    assert figures.loss == pytest.approx(F.cross_entropy(logits.double(), torch.from_numpy(labels)).item(), abs=1e-12)
    assert np.array_equal(predictions(logits), predictions(logits.numpy()))
