"""The fewest modules that stay FP32 for a budget, with real conversions."""

import dataclasses
import math
from pathlib import Path

import miniature
import pytest
import torch
from fresh_process import FULL_RANGE, collect, convert_params
from torch import Tensor, nn

from ptqflow.convert import accuracy_budget as budget
from ptqflow.convert.accuracy_budget import Budget, Trial, describe_trial, meet_budget, whole_blocks
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.core.figures import TrialRow
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import load_int8, save_int8
from ptqflow.fx.layers import list_layers
from ptqflow.fx.prepare import EVERYTHING, prepare
from ptqflow.models.canonical import canonicalize
from ptqflow.models.logits import compute_logits

MINMAX = {"method": "minmax"}


class Planted(nn.Module):
    """A chain in which one layer's output, rounded for a pooling, has an outlier, which nothing after it needs."""

    def __init__(self, num_classes: int, outlier: float = 1e4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.hard = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.fourth = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, num_classes)
        with torch.no_grad():
            self.hard.bias[0] = outlier
            self.fc.weight.mul_(20)
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(self.first(x) * 1.0)
        x = torch.relu(self.second(x))
        x = torch.sin(self.pool(self.hard(x)))  # has no INT8 kernel, and flattens the outlier
        return self.fc(self.fourth(x).flatten(2).amax(2))


def planted(num_classes: int) -> nn.Module:
    torch.manual_seed(3)
    model = Planted(num_classes).eval()
    with torch.inference_mode():
        center = model(images_of(miniature.split(200, seed=1))).mean(0)
    model.fc.bias = nn.Parameter(-center.clone())  # so that each class has its images
    return model


MODULES = 16


class Many(nn.Module):
    """Layers side by side, some of them with an outlier that nothing needs; each decides a class of its own."""

    def __init__(self, outliers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 2, miniature.SIZE) for _ in range(MODULES))
        with torch.no_grad():
            for i in range(outliers):
                self.layers[i].bias[0] = 1e4

    def forward(self, x: Tensor) -> Tensor:
        return torch.hstack([torch.sin(layer(x).mean((2, 3)))[:, 1:] for layer in self.layers])


def images_of(split: Split) -> Tensor:
    return to_input(torch.from_numpy(split.images), miniature.NORMALIZATION)


def labelled(model: nn.Module, split: Split) -> Split:
    """The same images, with what the network predicts as their labels: FP32 is always right."""
    with torch.inference_mode():
        return dataclasses.replace(split, labels=model(images_of(split)).argmax(1).numpy())


def meet(model: nn.Module, params: ConvertParams, val: Split) -> tuple[Budget, list[Trial]]:
    train = miniature.split(40)
    statistics = collect(model, list(images_of(train).split(8)))
    reported: list[Trial] = []
    found = meet_budget(model, miniature.card(), params, statistics, train, val, reported.append)
    return found, reported


def test_the_module_with_a_planted_outlier_is_kept_and_no_other(tmp_path: Path) -> None:
    model = planted(len(miniature.CLASSES))
    val = labelled(model, miniature.split(200, seed=1))

    found, reported = meet(model, convert_params(engine=FULL_RANGE, head="int8", activation=MINMAX, max_drop=5), val)

    assert found.kept == ("hard",)
    assert list(found.trail) == reported
    assert reported[0].kept == ()
    assert reported[0].drop > 20
    assert [trial.meets(5) for trial in reported if trial.kept == ("hard",)] == [True]
    assert all(trial.kept[:1] == ("hard",) for trial in reported[1:])


@pytest.mark.parametrize("overrides", [{}, {"fourth": "entropy"}])
def test_what_the_budget_keeps_comes_back_from_disk_bit_for_bit(tmp_path: Path, overrides: dict[str, str]) -> None:
    """Also where an override is for a tensor that gets no range then."""
    miniature_card = miniature.card()
    torch.manual_seed(0)
    model, train = canonicalize(miniature.residual(len(miniature.CLASSES)), miniature.INPUT_SHAPE), miniature.split(40)
    statistics = collect(model, list(images_of(train).split(8)))
    overrides = {"conv2": "entropy"} if overrides else {}
    params = convert_params(engine="x86", activation=MINMAX, overrides=overrides)

    quantized = quantize(model, miniature_card, params, statistics, train, ("conv2", "avgpool"))

    assert quantized.scheme.fp32 == ("avgpool", "conv2", "fc")
    save_int8(tmp_path / "int8", quantized.prepared, quantized.converted, [], quantized.card, images_of(train))
    restored = load_int8(tmp_path / "int8").module
    with torch.inference_mode():
        assert torch.equal(restored(images_of(train)), quantized.converted(images_of(train)))


def test_the_trail_holds_what_each_conversion_loses_and_no_seconds() -> None:
    model = planted(len(miniature.CLASSES))
    val = labelled(model, miniature.split(200, seed=1))
    params = convert_params(engine=FULL_RANGE, head="int8", activation=MINMAX, max_drop=5)
    train = miniature.split(40)
    statistics = collect(model, list(images_of(train).split(8)))

    found, trials = meet(model, params, val)

    for trial in trials:
        again = quantize(model, miniature.card(), params, statistics, train, trial.kept).converted
        logits = compute_logits(again, val, miniature.NORMALIZATION, 256, "again")
        assert trial.lost == len(val) - int((logits.argmax(1).numpy() == val.labels).sum())
    rows = found.rows()
    assert [row.kept for row in rows if row.chosen] == ["hard"]
    assert rows[0] == TrialRow(modules=0, drop=trials[0].lost / 200, chosen=False, kept="")
    assert [row.modules for row in rows] == [trial.count for trial in trials]
    assert Budget((), ()).rows() == []
    assert "hard" in describe_trial(trials[-1])


def test_a_budget_that_is_met_at_once_keeps_nothing_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(budget, "measure_sensitivity")
    model = planted(len(miniature.CLASSES))

    found, trials = meet(model, convert_params(head="int8", max_drop=100), miniature.split(20))

    assert found.kept == ()
    assert [trial.kept for trial in trials] == [()]


@pytest.mark.parametrize("head", ["fp32", "int8"])
def test_a_network_of_a_single_module(head: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * miniature.SIZE**2, 6)).eval()
    with torch.no_grad():
        model[1].bias[5] = -1e5  # no image is of this class, and no other gets a code of its own
    val = labelled(model, miniature.split(50))

    found, trials = meet(model, convert_params(head=head, activation=MINMAX, max_drop=0), val)

    assert found.kept == (() if head == "fp32" else ("1",))
    assert len(trials) == (1 if head == "fp32" else 2)


class Adding(nn.Module):
    """Loses all in an addition, which belongs to no module that could be kept."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, num_classes, miniature.SIZE)
        self.right = nn.Conv2d(3, num_classes, miniature.SIZE)
        with torch.no_grad():
            self.right.bias[0] = -1e6

    def forward(self, x: Tensor) -> Tensor:
        return (self.left(x) + self.right(x)).flatten(1)


def test_with_all_modules_kept_an_addition_between_them_is_fp32_too_and_any_budget_is_met() -> None:
    torch.manual_seed(0)
    model, train = Adding(len(miniature.CLASSES)).eval(), miniature.split(40)
    statistics = collect(model, list(images_of(train).split(8)))
    params = convert_params(head="int8", activation=MINMAX, max_drop=1)
    val, reported = labelled(model, miniature.split(50, seed=1)), []

    budget = meet_budget(model, miniature.card(), params, statistics, train, val, reported.append)

    assert reported[0].lost > 0
    assert next(trial for trial in reported if trial.count == 2).lost == 0
    assert budget.kept


@pytest.mark.parametrize("outliers", [1, 2, 5, 9])
def test_the_number_of_conversions_grows_with_the_logarithm_of_the_number_of_modules(outliers: int) -> None:
    """Of 16 layers, as many as are needed are hard to quantize."""
    torch.manual_seed(0)
    model = Many(outliers).eval()
    val = labelled(model, miniature.split(100, seed=1))

    found, trials = meet(model, convert_params(head="int8", activation=MINMAX, max_drop=0), val)

    assert len(trials) <= 2 + math.ceil(math.log2(MODULES))
    assert found.kept in [trial.kept for trial in trials if trial.meets(0)]
    assert set(found.kept) >= {f"layers.{i}" for i in range(outliers) if i in val.labels}


def test_a_val_of_one_image_and_a_drop_that_fp32_does_not_better() -> None:
    model = planted(len(miniature.CLASSES))
    val = miniature.split(1)
    val = dataclasses.replace(val, labels=(labelled(model, val).labels + 1) % 6)

    found, _ = meet(model, convert_params(head="int8", activation=MINMAX, max_drop=0), val)

    assert found.kept == ()


class Blocks(nn.Module):
    """Two residual blocks, in the first of which the addition alone is hard to quantize."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Adding(num_classes), Adding(num_classes)])
        nn.init.zeros_(self.blocks[1].right.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.blocks[0](x)) + torch.sin(self.blocks[1](x))


def test_a_block_is_kept_whole_with_its_additions_once_all_its_modules_are() -> None:
    torch.manual_seed(0)
    model = Blocks(len(miniature.CLASSES)).eval()
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)
    measured = ["blocks.0.left", "blocks.0.right", "blocks.1.left", "blocks.1.right"]

    assert whole_blocks(model, prepared, ["blocks.0.right", "blocks.1.left"], measured) == (
        "blocks.0.right",
        "blocks.1.left",
    )
    some = ["blocks.0.right", "blocks.1.left", "blocks.0.left"]
    assert whole_blocks(model, prepared, some, measured) == ("blocks.0", "blocks.1.left")
    found = whole_blocks(model, prepared, measured, measured)
    assert found == ("blocks",)
    train = miniature.split(40)
    statistics = collect(model, list(images_of(train).split(8)))
    params = convert_params(head="int8", activation=MINMAX)
    converted = quantize(model, miniature.card(), params, statistics, train, ("blocks.0",)).converted
    assert "add" in str(converted.graph)
    layers = list_layers(model, converted)
    assert {layer.precision for layer in layers if layer.note == "kept FP32"} == {"fp32"}
    assert [layer.operation for layer in layers if layer.note == "kept FP32"] == ["Conv2d", "Conv2d", "add"]


def test_a_block_with_a_part_of_a_layer_outside_is_not_kept_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Flatten()).eval()
    prepared = prepare(model, miniature.INPUT_SHAPE, EVERYTHING)

    assert whole_blocks(model, prepared, ["1.1"], ["0", "1.1"]) == ("1.1",)
    assert whole_blocks(model, prepared, ["1.1", "0"], ["0", "1.1"]) == ("1", "0")


def test_a_budget_is_met_exactly_at_its_edge() -> None:
    assert Trial(0, (), 3, 1000, 0.0).meets(0.3)
    assert not Trial(0, (), 4, 1000, 0.0).meets(0.3)
    assert Trial(0, (), -4, 1000, 0.0).meets(0)
