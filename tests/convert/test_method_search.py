"""The range method that `auto` takes, against real INT8 networks."""

import dataclasses

import miniature
import numpy as np
import pytest
import torch
from fresh_process import convert_params
from numpy.typing import NDArray
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.statistics import Statistics
from ptqflow.convert import criterion, method_search
from ptqflow.convert.method_search import CANDIDATES, Search, search_methods, with_method
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.convert.ranges import Method
from ptqflow.core.errors import ParamsError
from ptqflow.data.dataset import Split, digests_of
from ptqflow.data.fidelity import image_sqnr_db
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import Fp32Model

IMAGES = 96
ROWS = np.arange(IMAGES, dtype=np.int64).reshape(-1, 16)


class Gated(nn.Module):
    """Swish, squeeze-and-excitation and a sum that a bright image makes large."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.mid, self.last = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.act, self.pool, self.gate = nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, num_classes)
        for convolution in (self.first, self.mid, self.last):
            convolution.weight.data *= 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.mid(self.act(self.first(x))))
        x = x * torch.sigmoid(self.gate(self.pool(x)))
        return self.head(self.act(self.last(x * x)).mean((2, 3)))


def auto() -> ConvertParams:
    return convert_params(activation={"method": "auto"})


def build(kind: type[nn.Module]) -> Fp32Model:
    torch.manual_seed(0)
    return Fp32Model(canonicalize(kind(len(miniature.CLASSES)).eval(), miniature.INPUT_SHAPE), miniature.card())


def collected(fp32: Fp32Model, train: Split) -> Statistics:
    batches = input_batches(train, ROWS, fp32.card.normalization)
    return collect_statistics(observe(fp32.module, fp32.card.input_shape), batches, ROWS)


def search(fp32: Fp32Model, train: Split, params: ConvertParams | None = None) -> Search:
    return search_methods(fp32, params or auto(), collected(fp32, train), train, lambda line: None)


def sqnr_db(fp32: Fp32Model, train: Split, params: ConvertParams) -> float:
    """Return the mean SQNR of the real INT8 network's logits on the calibration images, in decibels."""
    int8 = quantize(fp32.module, fp32.card, params, collected(fp32, train), train).converted
    images = torch.cat(list(input_batches(train, ROWS, fp32.card.normalization)))
    with torch.inference_mode():
        return float(np.minimum(image_sqnr_db(int8(images), fp32.module(images)), 100).mean())


@pytest.mark.parametrize("kind", [miniature.Residual, Gated])
def test_no_single_method_is_better_for_the_real_int8_network(kind: type[nn.Module]) -> None:
    fp32, train = build(kind), miniature.split(IMAGES)

    found = search(fp32, train)

    single = {method: sqnr_db(fp32, train, with_method(auto(), method, {})) for method in CANDIDATES}
    assert sqnr_db(fp32, train, found.params) > max(single.values()) - 0.5
    assert max(single.values()) > min(single.values()) + 1, "the methods differ"


def test_one_image_with_an_outlier_does_not_decide_the_range_as_it_does_for_the_least_squared_error() -> None:
    fp32, train = build(Gated), miniature.split(IMAGES)
    train.images[:] = 110 + train.images // 4
    train.images[5] = 255
    train = dataclasses.replace(train, digests=digests_of(train.images))

    found = search(fp32, train)

    chosen, squared = (sqnr_db(fp32, train, params) for params in (found.params, with_method(auto(), "mse", {})))
    assert chosen > squared + 3


def test_what_was_tried_is_reported_and_the_best_is_taken() -> None:
    fp32, train, lines = build(Gated), miniature.split(IMAGES), list[str]()

    found = search_methods(fp32, auto(), collected(fp32, train), train, lines.append)

    whole = [row for row in found.rows if not row.tensor]
    assert [row.method for row in whole] == list(CANDIDATES)
    assert found.params.activation.method == max(whole, key=lambda row: row.sqnr_db).method
    assert [line.split()[0] for line in lines[: len(CANDIDATES)]] == list(CANDIDATES)
    assert sum(line.endswith("taken") for line in lines) == 1
    assert found.seconds > 0


def test_only_methods_close_to_the_best_are_compared_on_other_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criterion, "_MOST", 32)
    fp32, train = build(Gated), miniature.split(IMAGES)

    def figures(close_db: float, rows: NDArray[np.int64] = ROWS) -> dict[str, float]:
        monkeypatch.setattr(method_search, "_CLOSE_DB", close_db)
        statistics = dataclasses.replace(collected(fp32, train), rows=rows)
        found = search_methods(fp32, auto(), statistics, train, lambda line: None)
        return {row.method: row.sqnr_db for row in found.rows if not row.tensor and row.sqnr_db is not None}

    deciding, others = figures(1e-9), figures(1e-9, np.roll(ROWS, -2, axis=0))
    both = figures(1.0)
    close = [method for method, db in deciding.items() if db > max(deciding.values()) - 1]
    assert 1 < len(close) < len(deciding)
    for method, db in deciding.items():
        assert both[method] == pytest.approx((db + others[method]) / 2 if method in close else db, abs=2e-4)


def test_equal_inputs_have_equal_choices() -> None:
    fp32, train = build(Gated), miniature.split(IMAGES)
    one, other = search(fp32, train), search(fp32, train)
    assert (one.params, one.rows) == (other.params, other.rows)


@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_a_method_that_was_asked_for_is_taken_without_a_trial(method: Method) -> None:
    fp32, train = build(miniature.Residual), miniature.split(IMAGES)
    params = convert_params(activation={"method": method})

    found = search(fp32, train, params)

    assert found.params == params.model_copy(update={"smooth_quant": 0})
    assert found.smoothed.fp32 is fp32
    assert found.rows == ()


def test_the_users_overrides_come_first() -> None:
    fp32, train = build(miniature.Residual), miniature.split(IMAGES)
    params = convert_params(activation={"method": "auto"}, overrides={"conv1": "entropy"})

    found = search(fp32, train, params)

    assert next(iter(found.params.overrides.items())) == ("conv1", "entropy")
    assert with_method(params, "mse", {"conv1": "minmax", "a[b": "mse"}).overrides == {
        "conv1": "entropy",
        "a[[]b": "mse",
    }


def test_a_wrong_override_is_reported_as_by_a_single_method() -> None:
    fp32, train = build(miniature.Residual), miniature.split(IMAGES)
    params = convert_params(activation={"method": "auto"}, overrides={"nowhere": "mse"})
    with pytest.raises(ParamsError, match=r"convert\.overrides: 'nowhere' matches nothing"):
        search(fp32, train, params)


class Unequal(nn.Module):
    """One channel is thirty times as large as the others, which 8 bits for all of them cannot hold."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(channels, 4, 1, bias=False) for channels in (3, 4, 4))
        self.wide, self.head = nn.Linear(4 * miniature.SIZE**2, 64), nn.Linear(64, num_classes)
        self.relu = nn.ReLU()
        self.first.weight.data[0] *= 30
        self.second.weight.data[:, 0] /= 30

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.third(self.relu(self.second(self.relu(self.first(x))))))
        return self.head(self.relu(self.wide(x.flatten(1))))


def test_a_small_layer_whose_input_no_8_bits_hold_stays_fp32() -> None:
    fp32, train = build(Unequal), miniature.split(IMAGES)

    found = search(fp32, train)

    assert found.params.keep_fp32 == ("second",)
    assert [row.tensor for row in found.rows if row.method == "fp32"] == ["first"]
    assert "first" not in found.params.overrides
    all_int8 = found.params.model_copy(update={"keep_fp32": ()})
    assert sqnr_db(fp32, train, found.params) > sqnr_db(fp32, train, all_int8) + 5


def test_a_large_layer_stays_int8_whatever_its_input_costs() -> None:
    class Larger(Unequal):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.wide = nn.Linear(4 * miniature.SIZE**2, 64)
            self.first = nn.Conv2d(3, 32, 1, bias=False)
            self.second = nn.Conv2d(32, 4, 3, padding=1, bias=False)
            self.first.weight.data[0] *= 30
            self.second.weight.data[:, 0] /= 30

    assert search(build(Larger), miniature.split(IMAGES)).params.keep_fp32 == ()
