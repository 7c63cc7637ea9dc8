"""What the stage `convert` makes: INT8, and what was tried."""

import miniature
import numpy as np
import pytest
import torch
from fresh_process import convert_params
from samples import save_dataset
from torch import nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.convert.bias_correction import correction_rows, describe_correction
from ptqflow.convert.conversion import Conversion, convert_network
from ptqflow.convert.params import ConvertParams
from ptqflow.core.errors import ModelError, ParamsError, PtqflowWarning
from ptqflow.data.dataset import Dataset, open_dataset
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import Fp32Model

ROWS = np.arange(32, dtype=np.int64).reshape(4, 8)


@pytest.fixture
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("data") / "dataset"
    splits = {
        split: (miniature.images(40, seed), np.arange(40) % len(miniature.CLASSES))
        for seed, split in enumerate(("train", "val", "test"))
    }
    save_dataset(directory, splits, classes=miniature.CLASSES)
    return open_dataset(directory)


def build() -> Fp32Model:
    torch.manual_seed(0)
    module: nn.Module = miniature.residual(len(miniature.CLASSES)).eval()
    return Fp32Model(canonicalize(module, miniature.INPUT_SHAPE), miniature.card())


def convert(dataset: Dataset, params: ConvertParams, lines: list[str]) -> Conversion:
    fp32 = build()
    batches = input_batches(dataset.train, ROWS, fp32.card.normalization)
    statistics = collect_statistics(observe(fp32.module, fp32.card.input_shape), batches, ROWS)
    return convert_network(fp32, params, statistics, dataset, lines.append)


def test_the_network_has_ranges_and_what_was_tried_is_reported(dataset: Dataset) -> None:
    lines: list[str] = []
    found = convert(dataset, convert_params(activation={"method": "auto"}), lines)
    assert found.quantized.qparams
    assert len(found.images) == 8
    assert lines
    assert found.search.rows
    assert found.budget.trail == ()


def test_a_budget_is_met_with_the_methods_that_were_found(dataset: Dataset) -> None:
    lines: list[str] = []
    found = convert(dataset, convert_params(activation={"method": "auto"}, max_drop=100), lines)
    assert [trial.kept for trial in found.budget.trail] == [()]
    assert any("kept FP32" in line for line in lines)


def test_the_correction_of_biases_is_reported_and_its_rows_follow_those_of_the_methods(dataset: Dataset) -> None:
    lines: list[str] = []
    found = convert(dataset, convert_params(activation={"method": "auto"}, bias_correction="auto"), lines)

    correction = found.quantized.correction
    assert correction
    assert [line for line in lines if line.startswith("bias correction: ")] == [describe_correction(correction)]
    assert list(found.search.rows[-2:]) == correction_rows(correction)


@pytest.mark.parametrize("value", ["auto", True])
def test_biases_that_are_corrected_are_never_farther_from_fp32(dataset: Dataset, value: object) -> None:
    plain, corrected = (
        convert(dataset, convert_params(weight={"per_channel": False}, bias_correction=corrects), []).quantized
        for corrects in (False, value)
    )
    assert plain.correction is None
    assert corrected.correction
    assert bool(corrected.correction.layers) <= (corrected.correction.after_db > corrected.correction.before_db)


def test_a_method_that_cuts_off_signal_is_reported_where_it_was_asked_for(dataset: Dataset) -> None:
    clips = {"method": "percentile", "percentile": 90}
    with pytest.warns(PtqflowWarning, match="^convert.activation.method=percentile cuts off signal: .* with minmax"):
        convert(dataset, convert_params(activation=clips, min_sqnr_db=None), [])


def test_a_network_below_the_floor_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ModelError, match=r"convert\.min_sqnr_db is 100"):
        convert(dataset, convert_params(min_sqnr_db=100), [])


@pytest.mark.parametrize("method", ["auto", "mse"])
@pytest.mark.parametrize("keep", [["*"], ["conv*"]])
def test_to_keep_everything_fp32_is_refused_by_name(dataset: Dataset, method: str, keep: list[str]) -> None:
    with pytest.raises(ParamsError, match=r"^convert\.keep_fp32=\['.*\*'\] leaves no layer to quantize; name fewer$"):
        convert(dataset, convert_params(keep_fp32=keep, activation={"method": method}), [])
