"""SmoothQuant: its scales, the statistics of the scaled network, and where it is taken."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import miniature
import numpy as np
import pytest
import smoothable
import torch
from fresh_process import convert_params
from numpy.typing import NDArray
from repository import ROOT
from smoothable import IMAGES, ROWS, build, collected, outliers, transformer

from ptqflow.calib.statistics import Statistics, decode, encode
from ptqflow.calib.tensor_statistics import TensorStatistics
from ptqflow.convert.conversion import convert_network
from ptqflow.convert.method_search import ALPHAS, Search, search_methods
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.convert.sensitivity import measure_sensitivity
from ptqflow.convert.smoothing import Smoothed, require_equal, smooth_network, smoothable_pairs
from ptqflow.core.errors import ArtifactError, ModelError, ParamsError
from ptqflow.core.params import read_params
from ptqflow.data.dataset import Dataset
from ptqflow.data.fidelity import image_sqnr_db
from ptqflow.fx.artifact import load_int8, save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.fx.smoothing import smooth
from ptqflow.models.fp32 import Fp32Model

TRAIN = miniature.split(IMAGES)
SMALL: Any = ROWS[:2]


def params(**changes: Any) -> ConvertParams:
    return convert_params(**{"activation": {"method": "minmax"}, **changes})


def smoothed(fp32: Fp32Model, statistics: Statistics, alpha: float) -> Smoothed:
    return smooth_network(fp32, statistics, smoothable_pairs(fp32, ()), alpha)


def search(fp32: Fp32Model, **changes: Any) -> Search:
    return search_methods(fp32, params(**changes), collected(fp32, TRAIN), TRAIN, lambda line: None)


def sqnr_db(fp32: Fp32Model, found: Search) -> float:
    """Return the mean SQNR of the logits of the real INT8 network, in decibels."""
    source = found.smoothed
    int8 = quantize(source.fp32.module, fp32.card, found.params, source.statistics, TRAIN).converted
    images = smoothable.images(fp32, TRAIN)
    with torch.inference_mode():
        return float(image_sqnr_db(int8(images), fp32.module(images)).mean())


def test_scales_are_those_of_the_formula() -> None:
    fp32 = build(transformer)
    statistics = collected(fp32, TRAIN, SMALL)
    module: Any = fp32.module
    values: list[NDArray[np.float32]] = []
    module.norm2.register_forward_hook(
        lambda _module, _input, output: values.append(output.detach().abs().amax((0, 1)).numpy())
    )

    found = smoothed(fp32, statistics, 0.7)

    with torch.inference_mode():
        module(smoothable.images(fp32, TRAIN)[: SMALL.size])
    weights = module.widen.weight.detach().abs().amax(0).numpy()
    expected = values[-1] ** 0.7 / weights**0.3
    np.testing.assert_allclose(found.scales["norm2"], expected / np.exp(np.log(expected).mean()), rtol=1e-3)
    assert found.scales.keys() == {"norm1", "norm2"}


def test_channels_without_values_or_weights_keep_their_scale() -> None:
    fp32 = build(transformer)
    module: Any = fp32.module
    module.norm2.weight.data[3] = module.norm2.bias.data[3] = 0
    module.widen.weight.data[:, 5] = 0

    scales = smoothed(fp32, collected(fp32, TRAIN, SMALL), 0.5).scales["norm2"]

    assert scales[3] == scales[5] == 1
    assert np.isfinite(scales).all()


@pytest.mark.parametrize("function", [transformer, outliers])
def test_the_scaled_network_computes_the_same(function: Any) -> None:
    fp32 = build(function)
    found = smoothed(fp32, collected(fp32, TRAIN, SMALL), 0.5)
    images = smoothable.images(fp32, TRAIN).double()

    exact, logits = fp32.module.double()(images), found.fp32.module.double()(images)

    torch.testing.assert_close(logits, exact, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found.fp32.module.get_parameter("widen.weight"), fp32.module.get_parameter("widen.weight"))


def test_the_statistics_are_those_that_observers_of_the_scaled_network_see() -> None:
    fp32 = build(outliers)

    found = smoothed(fp32, collected(fp32, TRAIN), 0.6)

    expected = collected(found.fp32, TRAIN)
    assert found.statistics.tensors.keys() == expected.tensors.keys()
    for name, other in expected.tensors.items():
        seen = found.statistics.tensors[name]
        assert isinstance(seen, TensorStatistics)
        assert isinstance(other, TensorStatistics)
        for extremes in ("minima", "maxima", "image_minima", "image_maxima"):
            np.testing.assert_allclose(getattr(seen, extremes), getattr(other, extremes), rtol=1e-4, atol=1e-5)
        assert seen.count == other.count
        center, spread = (float(np.average(h.centers, weights=h.counts)) for h in (seen.histogram, other.histogram))
        assert center == pytest.approx(spread, abs=0.01 * (other.maximum - other.minimum))


def test_alpha_0_changes_nothing() -> None:
    fp32 = build(outliers)
    statistics = collected(fp32, TRAIN, SMALL)

    found = smoothed(fp32, statistics, 0)

    assert found.fp32 is fp32
    assert found.statistics is statistics
    assert found.scales == {}


def test_auto_takes_smooth_quant_where_channels_are_outliers_and_wins_many_decibels() -> None:
    fp32 = build(outliers)

    found = search(fp32)

    assert found.params.smooth_quant in ALPHAS
    assert sqnr_db(fp32, found) > sqnr_db(fp32, search(fp32, smooth_quant=0)) + 6
    assert [row.method for row in found.rows] == ["minmax", *(f"smooth_quant={alpha}" for alpha in ALPHAS)]


def test_auto_is_as_good_as_the_best_alpha() -> None:
    fp32 = build(outliers)

    single = [sqnr_db(fp32, search(fp32, smooth_quant=alpha)) for alpha in (0, *ALPHAS)]

    assert sqnr_db(fp32, search(fp32)) > max(single) - 0.5


def test_auto_leaves_a_network_in_which_weights_have_outliers_and_activations_none() -> None:
    fp32 = build(transformer)
    module: Any = fp32.module
    for name, layer in (("norm1", "attention.in_proj"), ("norm2", "widen")):
        seen = collected(fp32, TRAIN).tensors[name]
        assert seen is not None
        norm, weight = module.get_submodule(name), module.get_submodule(layer).weight.data
        norm.weight.data /= torch.from_numpy(seen.require_channels().magnitudes)
        norm.bias.data[:] = 0
        weight[:] = 0.1 * weight.sign()
        weight[:, ::5] *= 127.5 / 3  # 0.1 is then 3 steps

    found = search(fp32)

    assert found.params.smooth_quant == 0
    assert found.smoothed.scales == {}
    assert len(found.rows) == 1 + len(ALPHAS)


def test_a_network_without_pairs_is_not_searched() -> None:
    found = search(build(miniature.residual))

    assert found.rows == ()
    assert found.params.smooth_quant == 0


def test_pairs_whose_layers_stay_fp32_are_not_scaled() -> None:
    fp32 = build(outliers)

    found = search(fp32, smooth_quant=0.5, keep_fp32=["attention"])

    assert found.smoothed.scales.keys() == {"norm2"}


def test_methods_are_searched_in_the_scaled_network() -> None:
    fp32 = build(outliers)

    found = search(fp32, activation={"method": "auto"}, smooth_quant=0.5)

    assert found.smoothed.scales.keys() == {"norm1", "norm2"}
    assert found.rows
    assert not any(row.method.startswith("smooth_quant") for row in found.rows)


def test_search_is_deterministic_and_the_same_from_merged_statistics() -> None:
    fp32 = build(outliers)
    whole = collected(fp32, TRAIN)
    parts = [decode(encode(collected(fp32, TRAIN, part))) for part in (ROWS[:2], ROWS[2:])]

    found = [
        search_methods(fp32, params(), statistics, TRAIN, lambda line: None)
        for statistics in (whole, parts[0].merged(parts[1]))
    ]

    assert encode(whole) == encode(parts[0].merged(parts[1]))
    assert found[0].rows == found[1].rows
    assert found[0].smoothed.scales == found[1].smoothed.scales
    assert encode(found[0].smoothed.statistics) == encode(found[1].smoothed.statistics)


def test_statistics_without_channels_are_refused() -> None:
    fp32 = build(outliers)
    statistics = collected(fp32, TRAIN, SMALL)
    tensors = {name: seen and replace(seen, channels=None) for name, seen in statistics.tensors.items()}

    with pytest.raises(ArtifactError, match="run `dvc repro`"):
        smoothed(fp32, replace(statistics, tensors=tensors), 0.5)


def test_logits_that_change_are_refused() -> None:
    fp32 = build(outliers)
    found = smoothed(fp32, collected(fp32, TRAIN, SMALL), 0.5)
    images = smoothable.images(fp32, TRAIN)[:4]

    require_equal(fp32, found, images)
    found.fp32.module.get_parameter("widen.weight").data *= 1.01
    with pytest.raises(ModelError, match=r"set convert\.smooth_quant=0"):
        require_equal(fp32, found, images)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "half", "true", ".nan", "null"])
def test_alpha_out_of_range_is_one_line(tmp_path: Path, value: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "smooth_quant" in line)
    (tmp_path / "params.yaml").write_text(text.replace(line, f"  smooth_quant: {value}"), encoding="utf-8")

    with pytest.raises(ParamsError, match=r"convert\.smooth_quant is .*: should be auto, or a number from 0") as error:
        read_params("convert", ConvertParams, tmp_path / "params.yaml")
    assert "\n" not in str(error.value)
    assert str(error.value).count("smooth_quant") == 1


def test_the_saved_network_comes_back_and_sensitivity_compares_it_with_what_it_was_made_from(tmp_path: Path) -> None:
    fp32 = build(outliers)
    dataset = Dataset(None, TRAIN, miniature.split(24), miniature.split(8))  # type: ignore[arg-type]

    found = convert_network(fp32, params(), collected(fp32, TRAIN), dataset, lambda line: None)

    card = found.quantized.card
    assert card.smooth_quant == found.search.params.smooth_quant > 0
    assert card.scales == found.search.smoothed.scales
    converted_from = smooth(fp32.module, fp32.card.input_shape, card.scales)
    images = smoothable.images(fp32, TRAIN)
    assert torch.equal(converted_from(images), found.search.smoothed.fp32.module(images))
    layers = list_layers(fp32.module, found.quantized.converted)
    save_int8(tmp_path / "int8", found.quantized.prepared, found.quantized.converted, layers, card, images)
    reloaded = load_int8(tmp_path / "int8")
    assert torch.equal(reloaded.module(images), found.quantized.converted(images))
    assert reloaded.card.scales == card.scales
    costs = measure_sensitivity(converted_from, fp32.card, card, found.quantized.converted, dataset.val, 24)
    assert {"attention.in_proj", "widen"} <= costs.keys()
    assert all(cost.alone.sqnr_db and cost.alone.sqnr_db > 25 for cost in costs.values())


def test_a_budget_is_met_with_scaled_channels() -> None:
    fp32 = build(outliers)
    dataset = Dataset(None, TRAIN, miniature.split(24), miniature.split(8))  # type: ignore[arg-type]

    found = convert_network(
        fp32, params(max_drop=0.0, smooth_quant=0.5), collected(fp32, TRAIN), dataset, lambda line: None
    )

    assert found.quantized.card.scales.keys() == {"norm1", "norm2"}
    assert found.budget.trail[-1].images == 24
