"""What each module's quantization costs, against brute force and NumPy."""

import copy
from collections.abc import Mapping

import miniature
import numpy as np
import pytest
import torch
from fresh_process import ENGINES, Branched, collect, convert_params
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao.quantization import ObserverBase
from torch.fx import GraphModule, Node

from ptqflow.calib.statistics import Statistics
from ptqflow.convert import sensitivity
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.convert.sensitivity import (
    Fidelity,
    PartialPasses,
    Sensitivity,
    draw_rows,
    measure_sensitivity,
    order_by_harm,
    sensitivity_rows,
)
from ptqflow.core.errors import DataError
from ptqflow.core.figures import SensitivityRow
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.graph import weighted_modules
from ptqflow.models.canonical import canonicalize


class InPlace(nn.Module):
    """Changes in place what others have read, and runs a layer twice."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.swish = nn.Hardswish(inplace=True)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.swish(self.first(x))
        x = torch.sin(self.twice(x))
        x = self.twice(x).mul_(0.5).mean((2, 3))
        return self.fc(x)


NETWORKS = {"residual": miniature.residual, "branched": Branched, "in place": InPlace, "gated": miniature.gated}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return canonicalize(NETWORKS[name](len(miniature.CLASSES)), miniature.INPUT_SHAPE)


def quantized_of(model: nn.Module, statistics: Statistics, **changes: object) -> Quantized:
    return quantize(model, miniature.card(), convert_params(**changes), statistics, miniature.split(40))


def measure(
    model: nn.Module, statistics: Statistics, val: Split, images: int = 2000, **changes: object
) -> Mapping[str, Sensitivity]:
    quantized = quantized_of(model, statistics, **changes)
    return measure_sensitivity(model, miniature.card(), quantized.card, quantized.converted, val, images)


def brute_force(prepared: GraphModule, name: str, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run the whole network, with the tensors around one module rounded by hooks."""
    network = copy.deepcopy(prepared).to(memory_format=torch.channels_last)  # sums in the order of a partial pass
    observers = {
        node: network.get_submodule(str(node.target))
        for node in network.graph.nodes
        if node.op == "call_module" and "Observer" in type(network.get_submodule(str(node.target))).__name__
    }
    calls = [node for node in network.graph.nodes if node.op == "call_module" and node.target == name]
    started, outputs = iter(calls), []

    def rounded(observer: ObserverBase, values: Tensor) -> Tensor:
        scale, zero_point = observer.calculate_qparams()
        levels = torch.round(values * (1 / scale)) + zero_point  # ties fall as in fake_quantize_per_tensor_affine
        levels = levels.clamp(0, 255)  # as kernels saturate, also with 7 bits
        return (levels - zero_point) * scale

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        node = next(started)
        running.append(node)
        return tuple(
            rounded(observers[source], value) if source in observers else value
            for source, value in zip(node.args, args, strict=True)
        )

    def after(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        behind = [observers[user] for user in running[-1].users if user in observers]
        outputs.append(rounded(behind[0], output) if behind else output)
        return outputs[-1].clone()

    running: list[Node] = []
    module = copy.deepcopy(network.get_submodule(name))  # another layer may hold the same object
    network.set_submodule(name, module)
    if name in weighted_modules(network):
        layer = weighted_modules(network)[name]
        observer = module.qconfig.weight()
        observer(layer.weight.detach())
        scale = observer.calculate_qparams()[0].reshape(-1, *[1] * (layer.weight.dim() - 1))
        levels = torch.round(layer.weight.detach() * (1 / scale))  # ties as above
        layer.weight = nn.Parameter(torch.clamp(levels, -128, 127) * scale)
    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    with torch.inference_mode():
        logits = network(images.clone(memory_format=torch.channels_last))
    return outputs, logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_partial_pass_returns_what_the_whole_network_returns_with_one_module_rounded(
    name: str, engine: str, inputs: list[Tensor]
) -> None:
    model, images = make(name), torch.cat(inputs)
    quantized = quantized_of(model, collect(model, inputs), engine=engine, head="int8")
    passes = PartialPasses(quantized.prepared, quantized.converted)

    with torch.inference_mode():
        torch.testing.assert_close(passes.run_fp32(images), model(images))
        for module in passes.calls.keys() & dict(quantized.prepared.named_modules()).keys():
            outputs, logits = passes.quantized_outputs(module), passes.run_quantizing(module)
            expected_outputs, expected = brute_force(quantized.prepared, module, images)
            for output, expected_output in zip(outputs, expected_outputs, strict=True):
                assert (output - expected_output).abs().gt(1e-4).float().mean() < 0.01, module  # a tie that fell
            torch.testing.assert_close(logits, expected, rtol=0, atol=0.01)
            assert module not in weighted_modules(quantized.prepared) or not torch.equal(logits, model(images)), module


@pytest.mark.parametrize("name", NETWORKS)
def test_images_that_fp32_is_sure_of_are_left_out_and_the_drop_is_that_of_all(
    name: str, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, val = make(name), miniature.split(400, seed=1)
    statistics = collect(model, inputs)
    monkeypatch.setattr(sensitivity, "_PIXELS", 20 * miniature.SIZE**2)
    monkeypatch.setattr(sensitivity, "_FEWEST", 20)
    runs = 0
    run_quantizing = PartialPasses.run_quantizing

    def counted(self: PartialPasses, module: str) -> Tensor:
        nonlocal runs
        runs += 1
        return run_quantizing(self, module)

    monkeypatch.setattr(PartialPasses, "run_quantizing", counted)
    found = measure(model, statistics, val, head="int8")
    assert len(found) <= runs < 0.8 * len(found) * 400 / 20

    monkeypatch.setattr(sensitivity, "_SAFETY", np.inf)
    everywhere = measure(model, statistics, val, head="int8")
    assert {module: figures.drop for module, figures in found.items()} == {
        module: figures.drop for module, figures in everywhere.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_figures_are_those_of_numpy_over_all_chunks(
    name: str, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, val = make(name), miniature.split(50, seed=1)
    statistics = collect(model, inputs)
    monkeypatch.setattr(sensitivity, "_PIXELS", 7 * miniature.SIZE**2)

    found = measure(model, statistics, val, head="int8")

    quantized = quantized_of(model, statistics, head="int8")
    images = to_input(torch.from_numpy(val.images), miniature.NORMALIZATION)
    passes = PartialPasses(quantized.prepared, quantized.converted)
    with torch.inference_mode():
        fp32 = passes.run_fp32(images)
        assert list(found)
        for module, figures in found.items():
            outputs, logits = passes.quantized_outputs(module), passes.run_quantizing(module)
            exact, rounded = (
                np.concatenate([values.double().numpy().ravel() for values in several])
                for several in (passes.outputs(module), outputs)
            )
            ratio = 10 * np.log10((exact**2).sum() / ((exact - rounded) ** 2).sum())
            cosine = (exact @ rounded) / (np.linalg.norm(exact) * np.linalg.norm(rounded))
            assert figures.alone.sqnr_db == pytest.approx(ratio, abs=0.02)
            assert figures.alone.cosine == pytest.approx(cosine, abs=2e-6)
            right, left = ((values.argmax(1).numpy() == val.labels).mean() for values in (fp32, logits))
            assert figures.drop == pytest.approx(right - left, abs=1e-6)
            assert figures.network.sqnr_db <= figures.alone.sqnr_db + 2


def test_in_the_network_the_first_layer_has_no_more_error_than_alone(inputs: list[Tensor]) -> None:
    model = make("residual")

    found = measure(model, collect(model, inputs), miniature.split(50, seed=1))

    assert found["conv1"].network.sqnr_db == pytest.approx(found["conv1"].alone.sqnr_db, abs=0.1)
    assert found["conv2"].network.sqnr_db < found["conv2"].alone.sqnr_db


def test_figures_are_the_same_again_and_the_network_is_left_unchanged(inputs: list[Tensor]) -> None:
    model = make("in place")
    statistics, before = collect(model, inputs), copy.deepcopy(model.state_dict())

    first, second = (measure(model, statistics, miniature.split(9), bias_correction=True) for _ in range(2))

    assert first == second
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_stays_fp32_is_not_listed(inputs: list[Tensor]) -> None:
    model = make("residual")
    statistics = collect(model, inputs)

    assert list(measure(model, statistics, miniature.split(9), head="int8")) == [
        "conv1",
        "maxpool",
        "conv2",
        "add",
        "avgpool",
        "fc",
    ]
    assert "conv2" not in measure(model, statistics, miniature.split(9), keep_fp32=["conv2"])


class Clamped(nn.Module):
    """Adds two convolutions, of which one has outputs far beyond what ReLU6 lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.relu6 = nn.ReLU6()
        self.head = nn.Conv2d(6, 6, 6)
        with torch.no_grad():
            self.left.weight.mul_(100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu6(self.left(x)) + self.right(x)).flatten(1)


def test_what_a_clamp_cuts_off_is_no_error_and_an_addition_has_a_row(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Clamped().eval()

    found = measure(model, collect(model, inputs), miniature.split(9), head="int8")

    assert set(found) >= {"left", "right", "add", "head"}
    assert all(one.alone.sqnr_db is None or one.alone.sqnr_db > 20 for one in found.values())
    assert all(one.network.sqnr_db is None or one.network.sqnr_db > 20 for one in found.values())


class Shared(nn.Module):
    """Runs one ReLU twice: torch fuses the first into the convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3)
        self.between = nn.Conv2d(num_classes, num_classes, 1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(6)
        self.head = nn.Conv2d(num_classes, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.pool(self.between(self.relu(self.conv(x)))))).flatten(1)


def test_a_module_that_a_kept_layer_holds_too_is_measured_where_it_runs_on_int8(inputs: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = Shared(6).eval()

    found = measure(model, collect(model, inputs), miniature.split(9), keep_fp32=["conv"], head="int8")

    assert list(found) == ["between", "pool", "relu", "head"]
    assert found["relu"].network.sqnr_db == pytest.approx(found["relu"].alone.sqnr_db, abs=3)


def test_a_network_of_a_single_module_is_measured() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, miniature.SIZE), nn.Flatten()).eval()
    images = list(to_input(torch.from_numpy(miniature.images(16)), miniature.NORMALIZATION).split(8))

    found = measure(model, collect(model, images), miniature.split(1), head="int8")

    assert list(found) == ["0"]
    assert found["0"].network.sqnr_db == pytest.approx(found["0"].alone.sqnr_db, abs=3)


def test_with_nothing_to_quantize_there_are_no_figures_and_no_rows(inputs: list[Tensor]) -> None:
    model = make("residual")

    found = measure(model, collect(model, inputs), miniature.split(9), keep_fp32=["*"])

    assert found == {}
    assert sensitivity_rows(found) == []


def test_an_output_that_is_not_finite_is_refused_with_the_first_image_that_has_it(inputs: list[Tensor]) -> None:
    model = make("residual")
    statistics = collect(model, inputs)
    nn.init.constant_(model.fc.bias, torch.inf)

    first, *_ = draw_rows(9, 3)
    assert first > 0
    with pytest.raises(DataError, match=f"^fp32: the output for image {first} of val is not finite$"):
        measure(model, statistics, miniature.split(9), images=3)


def test_measured_are_all_images_or_as_many_as_asked_for_in_their_order() -> None:
    assert draw_rows(7, 7).tolist() == draw_rows(7, 2000).tolist() == list(range(7))
    rows: NDArray[np.int64] = draw_rows(5000, 2000)
    assert len(set(rows.tolist())) == 2000
    assert (np.diff(rows) > 0).all()
    assert rows.max() > 4900


def test_modules_are_ordered_by_loss_then_by_sqnr() -> None:
    def one(drop: float, ratio: float | None) -> Sensitivity:
        return Sensitivity(Fidelity(ratio, 1.0), drop, Fidelity(ratio, 1.0))

    modules = {"a": one(0.0, None), "b": one(0.0, 20.0), "c": one(0.1, 30.0), "d": one(-0.1, 1.0), "e": one(0.0, 10.0)}

    assert order_by_harm(modules) == ["c", "e", "b", "a", "d"]
    rows = sensitivity_rows(modules)
    assert [row.module for row in rows] == ["c", "e", "b", "a", "d"]
    assert rows[3] == SensitivityRow(module="a", cosine=1.0, drop=0.0, network_cosine=1.0)
    assert rows[0].model_dump() == {
        "module": "c",
        "sqnr_db": 30.0,
        "cosine": 1.0,
        "drop": 0.1,
        "network_sqnr_db": 30.0,
        "network_cosine": 1.0,
    }
    assert sensitivity_rows({}) == []
