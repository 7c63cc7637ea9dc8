import hashlib
import json
from pathlib import Path

import miniature
import numpy as np
import pytest
import safetensors.numpy
import torch
from statistics_of_miniatures import OBSERVED, arrays_of, assert_equal, collect, only_residual
from torch import Tensor, nn

from ptqflow.calib.statistics import Statistics, StatisticsCard, load_statistics, save_statistics
from ptqflow.convert.params import ActivationParams, ConvertParams, WeightParams
from ptqflow.convert.qparams import resolve_scheme, set_ranges
from ptqflow.core.engines import ENGINES, Engine, available_engines
from ptqflow.core.errors import ArtifactError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fx.convert import convert
from ptqflow.fx.fused_adds import fused_additions
from ptqflow.fx.graph import name_observed
from ptqflow.fx.prepare import EVERYTHING, prepare


class Empty(nn.Module):
    """Has a branch in which no image ever arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.side = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(torch.cat([x, self.side(x[:0])]).mean((2, 3)))


class Block(nn.Module):
    """Ends in an addition that oneDNN fuses into the second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)
        return self.fc(x.mean((2, 3)))


def params(engine: Engine) -> ConvertParams:
    return ConvertParams(
        engine=engine,
        activation=ActivationParams(method="mse", percentile=99.99, symmetric=False, reduce_range=None),
        weight=WeightParams(method="minmax", per_channel=True),
        head="int8",
        keep_fp32=(),
        overrides={},
        fuse_additions=True,
        round_biases=True,
        bias_correction=False,
        max_drop=None,
    )


def test_parts_that_are_merged_equal_the_whole_bit_for_bit(
    network: nn.Module, inputs: list[Tensor], statistics: Statistics
) -> None:
    one, two, three = collect(network, inputs[:1]), collect(network, inputs[1:3], 8), collect(network, inputs[3:4], 24)

    assert_equal(one.merged(two).merged(three), statistics)
    assert_equal(one.merged(two.merged(three)), statistics)
    assert_equal(one, collect(network, inputs[:1]))


@only_residual
def test_merged_in_another_order_the_histograms_are_the_same(
    network: nn.Module, inputs: list[Tensor], statistics: Statistics
) -> None:
    merged = collect(network, inputs[2:4], 16).merged(collect(network, inputs[:2]))

    assert merged.rows.tolist() == statistics.rows[[2, 3, 0, 1]].tolist()
    for name, seen in merged.tensors.items():
        expected = statistics.tensors[name]
        assert seen is not None
        assert expected is not None
        assert arrays_of(seen)[2:4] == arrays_of(expected)[2:4]
        assert np.array_equal(seen.histogram.counts, expected.histogram.counts)
        assert seen.minima.tolist() == expected.minima[[2, 3, 0, 1]].tolist()


@only_residual
def test_statistics_of_different_networks_are_not_merged(inputs: list[Tensor], statistics: Statistics) -> None:
    torch.manual_seed(0)
    other = collect(miniature.normed(6).eval(), inputs[:4])

    for one, two in ((statistics, other), (other, statistics)):
        with pytest.raises(ArtifactError, match="different networks cannot be merged: avgpool is in one of them"):
            one.merged(two)


@only_residual
def test_statistics_of_batches_of_different_sizes_are_not_merged(
    network: nn.Module, inputs: list[Tensor], statistics: Statistics
) -> None:
    other = collect(network, list(inputs[4].split(4)))

    with pytest.raises(ArtifactError, match="batches of 8 images cannot be merged with those of batches of 4"):
        statistics.merged(other)


def test_statistics_come_back_bit_for_bit(statistics: Statistics, statistics_dir: Path, function: str) -> None:
    assert_equal(load_statistics(statistics_dir, miniature.card(function)), statistics)


def test_equal_statistics_make_equal_bytes(
    statistics: Statistics,
    statistics_dir: Path,
    tmp_path: Path,
    function: str,
    network: nn.Module,
    inputs: list[Tensor],
) -> None:
    again = collect(network, inputs[:4])
    backwards = Statistics(dict([*again.tensors.items()][::-1]), again.rows)
    card = StatisticsCard(model=miniature.card(function), images=32)
    expected = {file.name: file.read_bytes() for file in statistics_dir.iterdir()}

    for number, same in enumerate((again, backwards, load_statistics(statistics_dir, card.model))):
        folder = tmp_path / str(number)
        save_statistics(folder, same, card)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == expected


def test_the_file_does_not_grow_with_the_images_but_for_a_few_numbers_a_batch_and_an_image(
    statistics: Statistics, function: str
) -> None:
    more = statistics
    for _ in range(4):
        more = more.merged(more)

    histograms = [seen.histogram.counts.size for seen in more.tensors.values() if seen]
    assert more.rows.shape == (64, 8)
    assert histograms == [seen.histogram.counts.size for seen in statistics.tensors.values() if seen]
    assert all(seen.minima.shape == seen.maxima.shape == (64,) for seen in more.tensors.values() if seen)
    assert all(seen.image_minima.shape == seen.image_maxima.shape == (512,) for seen in more.tensors.values() if seen)


def test_a_tensor_that_never_had_a_value_survives_collecting_merging_saving_and_loading(
    tmp_path: Path, inputs: list[Tensor]
) -> None:
    network = Empty().eval()
    collected = collect(network, inputs[:2])

    assert list(collected.tensors) == ["x", "conv", "getitem", "side", "cat", "mean", "fc"]
    assert [name for name, seen in collected.tensors.items() if seen is None] == ["getitem", "side"]
    save_statistics(tmp_path / "statistics", collected, StatisticsCard(model=miniature.card(), images=16))
    assert_equal(load_statistics(tmp_path / "statistics", miniature.card()), collected)
    assert_equal(collected.merged(collect(network, inputs[2:4], 16)), collect(network, inputs[:4]))


@only_residual
def test_every_tensor_with_values_has_a_row_with_the_smallest_and_the_largest(statistics: Statistics) -> None:
    rows = Statistics(statistics.tensors | {"never": None}, statistics.rows).ranges()

    assert [row.tensor for row in rows] == sorted(OBSERVED["residual"])
    for row in rows:
        seen = statistics.tensors[row.tensor]
        assert seen is not None
        assert (row.min, row.max) == (float(f"{seen.minimum:.6g}"), float(f"{seen.maximum:.6g}"))


@only_residual
def test_a_tensor_that_had_values_in_one_part_alone_keeps_them(statistics: Statistics) -> None:
    without = Statistics(statistics.tensors | {"conv2": None}, statistics.rows)

    for merged in (statistics.merged(without), without.merged(statistics)):
        for left, right in zip(arrays_of(merged.tensors["conv2"]), arrays_of(statistics.tensors["conv2"]), strict=True):
            assert np.array_equal(left, right)


@only_residual
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "resnet18"),
        ("stem", "small"),
        ("classes", miniature.CLASSES[:5]),
        ("preprocessing", Preprocessing.default((16, 16))),
        ("weights_sha256", "0" * 64),
    ],
)
def test_statistics_of_another_network_are_refused_by_what_is_another(
    statistics_dir: Path, key: str, value: object
) -> None:
    other = miniature.card().model_copy(update={key: value})

    with pytest.raises(ArtifactError, match=f"belong to another network: its {key} is not that of the FP32 model"):
        load_statistics(statistics_dir, other)


def edit(directory: Path, **changes: object) -> None:
    card = json.loads((directory / "card.json").read_text())
    (directory / "card.json").write_text(json.dumps(card | changes))


def forge(directory: Path, data: bytes) -> None:
    """Put other arrays there, and their hash into the card."""
    (directory / "statistics.safetensors").write_bytes(data)
    edit(directory, statistics_sha256=hashlib.sha256(data).hexdigest())


def refusal(directory: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        load_statistics(directory, miniature.card())
    assert "\n" not in str(error.value)
    assert "`dvc repro`" in str(error.value)
    return str(error.value)


@only_residual
@pytest.mark.parametrize("change", ["edit", "truncate", "extend", "empty", "remove"])
def test_a_damaged_file_is_refused(statistics_dir: Path, change: str) -> None:
    file = statistics_dir / "statistics.safetensors"
    data = file.read_bytes()
    file.unlink()
    damaged = {
        "edit": data[:-1] + bytes([data[-1] ^ 1]),
        "truncate": data[:-100],
        "extend": data + b"\0",
        "empty": b"",
    }
    if change in damaged:
        file.write_bytes(damaged[change])

    assert "statistics.safetensors is missing or not the file that `calib` wrote" in refusal(statistics_dir)


@only_residual
@pytest.mark.parametrize("kept", [0, 7, 500, -100])
def test_a_file_that_is_cut_off_is_refused_even_with_the_right_hash(statistics_dir: Path, kept: int) -> None:
    forge(statistics_dir, (statistics_dir / "statistics.safetensors").read_bytes()[:kept])

    assert "statistics.safetensors cannot be read" in refusal(statistics_dir)


@only_residual
@pytest.mark.parametrize("name", ["rows", "minima:conv1", "maxima:fc", "image_minima:fc", "image_maxima:x", "bins:x"])
def test_an_array_too_few_is_refused_even_with_the_right_hash(statistics_dir: Path, name: str) -> None:
    arrays = safetensors.numpy.load((statistics_dir / "statistics.safetensors").read_bytes())
    del arrays[name]
    forge(statistics_dir, safetensors.numpy.save(arrays))

    assert f"statistics.safetensors cannot be read ('{name}')" in refusal(statistics_dir)


@only_residual
@pytest.mark.parametrize("part", ["minima", "maxima", "image_minima", "image_maxima"])
def test_extremes_of_no_batch_or_image_are_refused_even_with_the_right_hash(statistics_dir: Path, part: str) -> None:
    arrays = safetensors.numpy.load((statistics_dir / "statistics.safetensors").read_bytes())
    forge(statistics_dir, safetensors.numpy.save(arrays | {f"{part}:conv1": np.zeros(0, np.float32)}))

    assert "statistics.safetensors cannot be read (" in refusal(statistics_dir)


@only_residual
def test_bins_of_another_shape_are_refused_even_with_the_right_hash(statistics_dir: Path) -> None:
    arrays = safetensors.numpy.load((statistics_dir / "statistics.safetensors").read_bytes())
    forge(statistics_dir, safetensors.numpy.save(arrays | {"bins:x": np.arange(3)}))

    assert "statistics.safetensors cannot be read" in refusal(statistics_dir)


@only_residual
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 5),
        ("format_version", 7),
        ("images", "many"),
        ("images", 0),
        ("model", "resnet18"),
        ("scale", 1.0),
    ],
)
def test_a_card_of_another_version_is_refused_by_key(statistics_dir: Path, key: str, value: object) -> None:
    edit(statistics_dir, **{key: value})

    assert f"card.json: {key}: " in refusal(statistics_dir)


@only_residual
@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_missing_or_broken_card_is_refused(statistics_dir: Path, text: str | None) -> None:
    (statistics_dir / "card.json").unlink()
    if text is not None:
        (statistics_dir / "card.json").write_text(text)

    assert "card.json" in refusal(statistics_dir)


@pytest.mark.parametrize("engine", available_engines())
def test_one_file_serves_every_engine(
    statistics_dir: Path, function: str, network: nn.Module, inputs: list[Tensor], engine: Engine
) -> None:
    statistics = load_statistics(statistics_dir, miniature.card(function))
    scheme = resolve_scheme(network, params(engine))
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme)
    qparams = set_ranges(network, prepared, scheme, statistics, params(engine))
    converted = convert(prepared, scheme, miniature.INPUT_SHAPE)

    with torch.inference_mode():
        logits, expected = converted(inputs[4]), network(inputs[4])
    assert "quantize_per_tensor" in str(converted.graph)
    assert qparams.keys() <= statistics.tensors.keys()
    assert (logits - expected).square().mean() < 1e-2 * expected.square().mean()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fp32", [(), ("conv1",), ("fc",)])
@pytest.mark.parametrize("kind", [miniature.Residual, miniature.Normed, Block, Empty])
def test_whatever_an_engine_observes_has_its_name_among_the_statistics(
    kind: type[nn.Module], fp32: tuple[str, ...], engine: Engine
) -> None:
    network = (kind(6) if kind.__module__ == "miniature" else kind()).eval()
    everything = set(name_observed(network, prepare(network, miniature.INPUT_SHAPE, EVERYTHING)).values())
    scheme = EVERYTHING.model_copy(update={"engine": engine, "fp32": fp32, "fuse_additions": True})

    names = name_observed(network, prepare(network, miniature.INPUT_SHAPE, scheme))
    assert names
    assert set(names.values()) <= everything


def test_a_fused_addition_finds_the_statistics_of_the_sum(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    network = miniature.vary(Block()).eval()
    statistics = collect(network, inputs[:4])
    scheme = EVERYTHING.model_copy(update={"engine": "onednn", "fuse_additions": True})
    prepared = prepare(network, miniature.INPUT_SHAPE, scheme)

    assert [node.name for node in fused_additions(prepared)] == ["conv2"]
    names = list(name_observed(network, prepared).values())
    assert list(statistics.tensors) == ["x", "stem", "conv1", "conv2", "relu", "mean", "fc"]
    assert names == ["x", "stem", "conv1", "relu", "mean", "fc"]
