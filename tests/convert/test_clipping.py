"""The warning of a range method that cuts off signal, against the real INT8 network."""

import warnings

import miniature
import pytest
import torch
from fresh_process import collect, convert_params
from torch import Tensor, nn

from ptqflow.calib.histogram import histogram_of
from ptqflow.calib.statistics import Statistics
from ptqflow.convert.clipping import Clipping, cut_power, measure_clipping, warn_of_clipping
from ptqflow.convert.criterion import Images
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.convert.ranges import Levels, QParams
from ptqflow.core.errors import PtqflowWarning
from ptqflow.data.preprocessing import to_input
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import Fp32Model

TRAIN = miniature.split(40)


class Peaked(nn.Module):
    """A swish after which few pixels are large, and these alone decide the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.peaks, self.mix = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.act, self.head = nn.SiLU(), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.peaks(x) ** 5)
        return self.head(torch.amax(self.mix(x), (2, 3)))


def build() -> tuple[Fp32Model, Images, Statistics]:
    torch.manual_seed(0)
    model = canonicalize(Peaked().eval(), miniature.INPUT_SHAPE)
    inputs = to_input(torch.from_numpy(TRAIN.images), miniature.NORMALIZATION)
    with torch.inference_mode():
        images = Images(inputs, model(inputs), 16)
    return Fp32Model(model, miniature.card()), images, collect(model, list(inputs.split(8)))


def quantized(fp32: Fp32Model, statistics: Statistics, params: ConvertParams) -> Quantized:
    return quantize(fp32.module, fp32.card, params, statistics, TRAIN)


def percentile(value: float) -> ConvertParams:
    return convert_params(activation={"method": "percentile", "percentile": value})


def measured(params: ConvertParams) -> Clipping | None:
    fp32, images, statistics = build()
    made = quantized(fp32, statistics, params)
    return measure_clipping(fp32.module, made.prepared, made.scheme, params, statistics, images)


def test_what_is_reported_is_what_the_real_int8_network_loses_and_one_tensor_costs_most_of_it() -> None:
    fp32, images, statistics = build()

    found = measured(percentile(99))

    assert found
    clipped, other = (
        images.score(quantized(fp32, statistics, params).converted).db
        for params in (percentile(99), convert_params(activation={"method": found.other}))
    )
    assert found.method_db == pytest.approx(clipped, abs=2)
    assert found.other_db == pytest.approx(other, abs=2)
    mixed = convert_params(activation={"method": found.other}, overrides={found.tensor: "percentile"})
    alone = mixed.model_copy(update={"activation": mixed.activation.model_copy(update={"percentile": 99})})
    assert found.other_db - found.tensor_db == pytest.approx(
        images.score(quantized(fp32, statistics, alone).converted).db, abs=2
    )
    assert found.tensor_db > (found.other_db - found.method_db) / 2
    assert 0 < found.cut < 1


def test_a_method_that_costs_little_is_not_reported() -> None:
    assert measured(percentile(100)) is None


def test_a_loss_by_ranges_that_cut_nothing_off_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A percentile of 100 keeps outliers, and may lose by steps that are too wide."""
    monkeypatch.setattr("ptqflow.convert.clipping._LOSS_DB", -100.0)
    assert measured(percentile(100)) is None


def test_the_warning_is_one_line_with_tensor_loss_and_setting() -> None:
    fp32, _, statistics = build()
    made = quantized(fp32, statistics, percentile(99))

    with pytest.warns(PtqflowWarning) as caught:
        warn_of_clipping(fp32, made.prepared, made.scheme, percentile(99), statistics, TRAIN)

    (line,) = [str(warning.message) for warning in caught]
    assert "\n" not in line
    assert line.startswith("convert.activation.method=percentile cuts off signal: the SQNR of the logits")
    assert line.endswith("try convert.activation.method=auto")


@pytest.mark.parametrize("method", ["auto", "mse", "minmax", "minmax_8"])
def test_other_methods_are_not_simulated(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32, _, statistics = build()
    made = quantized(fp32, statistics, convert_params())
    params = convert_params(activation={"method": method})
    monkeypatch.setattr("ptqflow.convert.clipping.read_images", None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_clipping(fp32, made.prepared, made.scheme, params, statistics, TRAIN)


def test_the_share_of_power_that_is_cut_off_is_that_of_the_values() -> None:
    values = torch.cat([torch.full((99,), 1.0), torch.tensor([11.0])])
    histogram = histogram_of(values, 0.0, 11.0, -10)
    qparams = QParams(1 / 255, 0, Levels(255, symmetric=False))

    assert cut_power(histogram, qparams) == pytest.approx(100 / (99 + 121), rel=0.01)
    assert cut_power(histogram, QParams(12 / 255, 0, Levels(255, symmetric=False))) == 0
