from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix

from ptqflow.core.errors import ParamsError
from ptqflow.core.figures import ConfusionCell
from ptqflow.core.params import read_params
from ptqflow.core.run_params import RunParams
from ptqflow.data.accuracy import evaluate
from ptqflow.evaluate.confidence import bin_by_confidence
from ptqflow.evaluate.metrics import (
    agreement,
    class_rows,
    compare,
    confusion_rows,
    per_class_rows,
    reliability_rows,
)
from ptqflow.evaluate.predictions import predict

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fly")
COUNT = 300
Array = NDArray[np.float64]


@pytest.fixture
def labels() -> NDArray[np.int64]:
    """No image is an eel, all that are a fly will be taken for an ant."""
    return np.random.default_rng(0).choice([0, 1, 2, 3, 5], COUNT)


def guess(labels: NDArray[np.int64], seed: int) -> Array:
    logits = np.random.default_rng(seed).normal(size=(COUNT, len(CLASSES)))
    logits[np.arange(COUNT), labels] += 1.5
    logits[labels == 5, 0] += 100
    logits[:, 5] -= 1000
    return logits


@pytest.fixture
def logits(labels: NDArray[np.int64]) -> dict[str, Array]:
    return {name: guess(labels, seed) for seed, name in enumerate(("fp32", "int8_uncalibrated", "int8"))}


def test_every_network_gets_its_figures_and_its_size(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    sizes = {"fp32": 44_776_123, "int8_uncalibrated": 11_312_499, "int8": 11_312_500}

    figures = compare(logits, sizes, labels)

    for name, size in (("fp32", 44.776), ("int8_uncalibrated", 11.312), ("int8", 11.312)):
        assert getattr(figures, name).model_dump() == evaluate(logits[name], labels).as_metrics() | {"size_mb": size}


def test_drop_and_agreement_compare_int8_with_fp32(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    figures = compare(logits, dict.fromkeys(logits, 0), labels)

    fp32, int8 = (logits[name].argmax(axis=1) for name in ("fp32", "int8"))
    drop = accuracy_score(labels, fp32) - accuracy_score(labels, int8)
    assert figures.drop.top1 == round(drop, 6)
    assert figures.drop.low < drop < figures.drop.high
    assert drop != 0
    assert figures.agreement == round(accuracy_score(fp32, int8), 6)
    assert agreement(logits["fp32"], logits["fp32"]) == 1


def test_int8_and_fp32_are_paired_image_by_image(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    paired = compare(logits, dict.fromkeys(logits, 0), labels).paired

    fp32, int8 = (logits[name].argmax(axis=1) == labels for name in ("fp32", "int8"))
    assert paired.only_fp32_right == (fp32 & ~int8).sum()
    assert paired.only_int8_right == (int8 & ~fp32).sum()
    assert paired.both_right + paired.both_wrong == (fp32 == int8).sum()
    assert paired.p == pytest.approx(binomtest((fp32 & ~int8).sum(), (fp32 != int8).sum()).pvalue, rel=1e-5)


def test_every_class_with_images_has_a_row_of_its_pairs(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    rows = class_rows(logits, labels, CLASSES)

    fp32, int8 = (logits[name].argmax(axis=1) == labels for name in ("fp32", "int8"))
    assert [row.name for row in rows] == [name for name in CLASSES if name != "eel"]
    assert sum(row.images for row in rows) == COUNT
    cat = rows[2]
    assert cat.drop == round(fp32[labels == 2].mean() - int8[labels == 2].mean(), 6)
    assert cat.low <= cat.drop <= cat.high
    assert cat.both_right == (fp32 & int8)[labels == 2].sum()
    assert cat.only_fp32_right == (fp32 & ~int8)[labels == 2].sum()
    assert cat.only_int8_right == (int8 & ~fp32)[labels == 2].sum()
    assert cat.both_wrong == (~fp32 & ~int8)[labels == 2].sum()
    assert cat.p_holm >= binomtest((fp32 & ~int8)[labels == 2].sum(), (fp32 != int8)[labels == 2].sum()).pvalue


def test_calibration_error_and_confidence_come_from_the_reliability_rows(
    logits: dict[str, Array], labels: NDArray[np.int64]
) -> None:
    rows = reliability_rows({name: predict(values) for name, values in logits.items()}, labels)

    assert list(dict.fromkeys(row.network for row in rows)) == list(logits)
    for name, values in logits.items():
        of_network = [row for row in rows if row.network == name]
        confidence = softmax(values, axis=1).max(axis=1).astype(np.float32)
        assert of_network == bin_by_confidence(name, confidence, values.argmax(axis=1) == labels)


def test_networks_that_predict_the_same_have_p_1_and_no_drop(
    logits: dict[str, Array], labels: NDArray[np.int64]
) -> None:
    figures = compare(logits | {"int8": logits["fp32"]}, dict.fromkeys(logits, 0), labels)

    assert figures.paired.p == 1
    assert figures.drop.model_dump() == {"top1": 0, "low": 0, "high": 0}
    assert figures.kl == 0


def test_all_wrong_is_a_result_too(labels: NDArray[np.int64]) -> None:
    wrong = np.eye(len(CLASSES))[(labels + 1) % len(CLASSES)]
    names = ("fp32", "int8_uncalibrated", "int8")
    figures = compare(dict.fromkeys(names, wrong), dict.fromkeys(names, 0), labels)

    assert figures.int8.top1 == 0
    assert figures.paired.both_wrong == COUNT


def test_equal_logits_have_no_ratio_to_report(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    same = logits | {"int8": logits["fp32"]}

    figures = compare(same, dict.fromkeys(logits, 0), labels)
    assert (figures.sqnr_db, figures.median_sqnr_db, figures.p5_sqnr_db) == (None, None, None)


def test_ratios_are_those_of_all_images_of_the_middle_one_and_of_the_fifth_in_a_hundred(
    logits: dict[str, Array], labels: NDArray[np.int64]
) -> None:
    figures = compare(logits, dict.fromkeys(logits, 0), labels)

    fp32, noise = logits["fp32"], logits["int8"] - logits["fp32"]
    ratios = 10 * np.log10((fp32**2).sum(axis=1) / (noise**2).sum(axis=1))
    assert figures.sqnr_db == pytest.approx(10 * np.log10((fp32**2).sum() / (noise**2).sum()), abs=1e-4)
    assert figures.median_sqnr_db == pytest.approx(np.sort(ratios)[(COUNT - 1) // 2], abs=1e-4)
    assert figures.p5_sqnr_db == pytest.approx(np.sort(ratios)[int(0.05 * (COUNT - 1))], abs=1e-4)


def test_confusion_rows_equal_scikit_learns_matrix(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    rows = confusion_rows(predict(logits["int8"]).predicted, labels, CLASSES)

    expected = confusion_matrix(labels, logits["int8"].argmax(axis=1), labels=range(len(CLASSES)))
    matrix = np.zeros_like(expected)
    for row in rows:
        matrix[CLASSES.index(row.actual), CLASSES.index(row.predicted)] = row.images
    assert np.array_equal(matrix, expected)
    assert sum(row.images for row in rows) == COUNT


def test_confusion_rows_leave_out_empty_cells_off_the_diagonal(
    logits: dict[str, Array], labels: NDArray[np.int64]
) -> None:
    rows = confusion_rows(predict(logits["int8"]).predicted, labels, CLASSES)

    assert {row.actual for row in rows if row.actual == row.predicted} == set(CLASSES)
    assert all(row.images > 0 for row in rows if row.actual != row.predicted)
    assert ConfusionCell(actual="eel", predicted="eel", images=0) in rows
    assert ConfusionCell(actual="fly", predicted="fly", images=0) in rows


def test_per_class_rows_equal_scikit_learns_report(logits: dict[str, Array], labels: NDArray[np.int64]) -> None:
    rows = per_class_rows(predict(logits["int8"]).predicted, labels, CLASSES)

    report = classification_report(
        labels,
        logits["int8"].argmax(axis=1),
        labels=range(len(CLASSES)),
        target_names=CLASSES,
        output_dict=True,
        zero_division=0,
    )
    assert [row.name for row in rows] == ["ant", "bee", "cat", "dog", "fly"]
    for row in rows:
        expected = report[row.name]
        assert row.precision == round(expected["precision"], 6)
        assert row.recall == round(expected["recall"], 6)
        assert row.f1 == round(expected["f1-score"], 6)
        assert row.images == expected["support"]


def test_a_class_that_is_never_predicted_counts_as_zero_and_one_without_images_has_no_figures(
    logits: dict[str, Array], labels: NDArray[np.int64]
) -> None:
    *_, dog, fly = per_class_rows(predict(logits["int8"]).predicted, labels, CLASSES)

    assert dog.name == "dog"
    assert (fly.precision, fly.recall, fly.f1, fly.images) == (0, 0, 0, int((labels == 5).sum()))


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "null", "all"])
def test_a_batch_holds_one_image_or_more(tmp_path: Path, value: str) -> None:
    (tmp_path / "params.yaml").write_text(f"run:\n  batch_size: {value}\n")

    with pytest.raises(ParamsError, match=r"run\.batch_size is "):
        read_params("run", RunParams, tmp_path / "params.yaml")
