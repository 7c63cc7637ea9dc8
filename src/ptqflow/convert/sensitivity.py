"""What the quantization of each module costs."""

import copy
import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from ptqflow.core.errors import DataError
from ptqflow.core.figures import DIGITS, SensitivityRow
from ptqflow.core.progress import track
from ptqflow.data.accuracy import predictions
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.fx.artifact import Int8Card
from ptqflow.fx.fake_quant import copy_to_simulate, dequantized_weight, round_values
from ptqflow.fx.graph import clamps, observer_nodes, step_name, weighted_modules
from ptqflow.fx.layers import list_layers
from ptqflow.fx.observer import RangeObserver
from ptqflow.fx.partial_pass import output_node, run_again
from ptqflow.fx.prepare import prepare, without_torch_warnings
from ptqflow.fx.qparams import restore_ranges
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.memory_format import lay_out

_PIXELS = 1 << 17  # of images at a time: all values of the FP32 network for them are in memory together
_COMPARED = 256  # images, at most, on which outputs are compared
_FEWEST = 64  # images, those with the smallest margins, on which the drop of each module is measured
_SAFETY = 2.0  # times the largest change of a margin so far: no larger one is expected on the images that are left


@dataclass(frozen=True)
class Fidelity:
    """How near values are to those of FP32, over all images."""

    sqnr_db: float | None
    """Power of FP32's values over that of the difference, in decibels; None without a difference, or without power."""
    cosine: float | None
    """Of the angle between the two as vectors; None where one has no length."""


@dataclass(frozen=True)
class Sensitivity:
    """What the quantization of one module costs."""

    alone: Fidelity
    """Of its output, with this module alone quantized."""
    drop: float
    """Loss of top-1 with this module alone quantized, as a fraction of the images."""
    network: Fidelity
    """Of its output, in the INT8 network: with all error that comes before it."""


@dataclass
class _Sums:
    """Over all values so far, in float64."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0

    def add(self, reference: Tensor, values: Tensor) -> None:
        exact, other = reference.double(), values.double()
        self.signal += exact.square().sum().item()
        self.noise += (other - exact).square().sum().item()
        self.product += (exact * other).sum().item()
        self.power += other.square().sum().item()

    def fidelity(self) -> Fidelity:
        ratio = round(10 * math.log10(self.signal / self.noise), 4) if self.noise and self.signal else None
        length = math.sqrt(self.signal) * math.sqrt(self.power)
        return Fidelity(ratio, round(self.product / length, DIGITS) if length else None)


def draw_rows(count: int, images: int) -> NDArray[np.int64]:
    """Return which of `count` images are measured on, ascending: all, or `images` of them drawn with seed 0."""
    return np.sort(np.random.default_rng(0).permutation(count)[:images]).astype(np.int64)


def measure_sensitivity(
    model: nn.Module,
    card: ModelCard,
    int8: Int8Card,
    converted: GraphModule,
    val: Split,
    images: int,
) -> dict[str, Sensitivity]:
    """Measure what the quantization of each module costs, in the order in which they run.

    They are the modules, and functions such as additions, that run on INT8 in the converted network. Alone, one is
    simulated in the prepared network: its weight, and what goes into it and comes out of it, are rounded to quantized
    levels; all else is FP32. Where its output only goes into clamps such as ReLU6, what these return is compared: what
    they cut off is no error. The values of the FP32 network are kept for some images at a time, and only what depends
    on the module runs again. In the network, its output is that of the real kernels: that is what is deployed.

    Outputs are compared on 256 images. For the drop, images are taken in the order of FP32's margin, the smallest
    first, and a module is done once the next margin is more than twice what it has changed a margin by so far.

    Args:
        model: FP32, in evaluation mode, in its canonical form.
        card: of the model.
        int8: card of the converted network. Bias correction shows in the converted network alone.
        converted: the INT8 network; its engine is the one selected in this process.
        val: images to measure on.
        images: how many of them at most.

    Raises:
        DataError: FP32's output is not finite.
    """
    prepared = prepare(model, card.input_shape, int8.scheme)
    restore_ranges(model, prepared, int8.qparams)
    passes = PartialPasses(prepared, converted)
    del prepared
    gc.collect()  # the networks that were built on the way: each is as large as the model, and part of a cycle
    layers = list_layers(model, converted)
    names = [layer.name for layer in layers if layer.precision == "int8" and layer.name in passes.calls]
    images_of = _Images(val, card, draw_rows(len(val), images))
    with torch.inference_mode():
        alone, network = _compare_outputs(passes, converted, names, images_of)
        lost = _count_lost(passes, names, images_of)
    return {
        name: Sensitivity(
            alone[name].fidelity(), round(lost[name] / len(images_of.rows), DIGITS), network[name].fidelity()
        )
        for name in names
    }


@dataclass(frozen=True)
class _Images:
    """The images that are measured on."""

    val: Split
    card: ModelCard
    rows: NDArray[np.int64]

    def chunks(self, rows: NDArray[np.int64], label: str) -> Iterator[NDArray[np.int64]]:
        """Yield rows, as many at a time as fit into memory with all values of the network for them."""
        size = images_together(self.card.preprocessing.size, _PIXELS)
        starts = range(0, len(rows), size)
        yield from (rows[start : start + size] for start in track(starts, len(starts), label, "batch"))

    def load(self, rows: NDArray[np.int64]) -> Tensor:
        """Return images as float32 (N, C, H, W), normalized."""
        return to_input(torch.from_numpy(self.val.read(rows)), self.card.normalization)


def _compare_outputs(
    passes: "PartialPasses", converted: GraphModule, names: Sequence[str], images: _Images
) -> tuple[dict[str, _Sums], dict[str, _Sums]]:
    """Return the errors of each module's output, with it alone quantized and in the INT8 network."""
    alone, network = ({name: _Sums() for name in names} for _ in range(2))
    for chunk in images.chunks(images.rows[:_COMPARED], "outputs"):
        batch = images.load(chunk)
        _finite(passes.run_fp32(batch), chunk)
        references = {name: passes.outputs(name) for name in names}
        with without_torch_warnings():
            _Int8Pass(converted, passes.ends, references, network).run(batch)
        for name in names:
            for reference, output in zip(references[name], passes.quantized_outputs(name), strict=True):
                alone[name].add(reference, output)
    return alone, network


def _count_lost(passes: "PartialPasses", names: Sequence[str], images: _Images) -> dict[str, int]:
    """Return how many images fewer are predicted rightly with each module alone quantized; negative is a gain."""
    every = [_finite(passes.run_fp32(images.load(chunk)), chunk) for chunk in images.chunks(images.rows, "fp32")]
    margins = _margins(torch.cat(every)).numpy()
    order = np.argsort(margins, kind="stable")
    rows, margins = images.rows[order], margins[order]
    lost, largest = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    done = 0
    for chunk in images.chunks(rows, "drop"):
        active = [name for name in names if done < _FEWEST or margins[done] <= _SAFETY * largest[name]]
        if not active:
            break
        exact = passes.run_fp32(images.load(chunk))
        labels = predictions(exact) if images.val.labels is None else images.val.labels[chunk]
        for name in active:
            logits = passes.run_quantizing(name)
            largest[name] = max(largest[name], _largest_change(logits, exact))
            lost[name] += _count_right(exact, labels) - _count_right(logits, labels)
        done += len(chunk)
    return lost


def _margins(logits: Tensor) -> Tensor:
    """Return by how much the largest logit of each image exceeds the second, (N,); infinity for a single class."""
    if logits.shape[1] == 1:
        return torch.full((len(logits),), torch.inf)
    largest = logits.topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1]


def _largest_change(logits: Tensor, exact: Tensor) -> float:
    """Return by how much, at most, another class has come nearer to the one that `exact` (N, classes) predicts."""
    change = logits - exact
    return float((change - change.gather(1, exact.argmax(1, keepdim=True))).max())


def order_by_harm(sensitivities: Mapping[str, Sensitivity]) -> list[str]:
    """Return the modules, that which costs most top-1 alone first, of equal ones that with the lowest SQNR alone."""

    def harm(name: str) -> tuple[float, float]:
        found = sensitivities[name]
        return -found.drop, math.inf if found.alone.sqnr_db is None else found.alone.sqnr_db

    return sorted(sensitivities, key=harm)


def sensitivity_rows(sensitivities: Mapping[str, Sensitivity]) -> list[SensitivityRow]:
    """Return a row for each module, in the order of `order_by_harm`."""
    return [
        SensitivityRow(
            module=name,
            sqnr_db=sensitivities[name].alone.sqnr_db,
            cosine=sensitivities[name].alone.cosine,
            drop=sensitivities[name].drop,
            network_sqnr_db=sensitivities[name].network.sqnr_db,
            network_cosine=sensitivities[name].network.cosine,
        )
        for name in order_by_harm(sensitivities)
    ]


class PartialPasses(fx.Interpreter):
    """Runs a prepared network in FP32 once, then with one module quantized, as far as that changes anything.

    Args:
        prepared: of a canonical form, in which nothing works in place; with the ranges of its observers set; stays
            unchanged.
        converted: the INT8 network made from it, whose weights are those of quantized modules.
    """

    def __init__(self, prepared: GraphModule, converted: GraphModule) -> None:
        simulated = copy_to_simulate(prepared)
        lay_out(simulated, torch.channels_last)
        super().__init__(simulated, garbage_collect_values=False)
        self._network = simulated
        self._observers: dict[Node, Any] = {
            node: simulated.get_submodule(str(node.target)) for node in observer_nodes(simulated)
        }
        self.calls: dict[str, list[Node]] = {}
        """Of each module, the nodes that call it; of each function, its node."""
        for node in simulated.graph.nodes:
            if node.op in ("call_function", "call_method"):
                self.calls[node.name] = [node]
            elif node.op == "call_module" and node not in self._observers:
                self.calls.setdefault(str(node.target), []).append(node)
        self.ends = {node.name: self._end(node).name for nodes in self.calls.values() for node in nodes}
        """Of each such node, the one whose output is compared: the last of the clamps that alone read its output."""
        self._rounded = _rounded_modules(simulated, converted)
        self._fp32: dict[Node, Any] = {}

    def run_fp32(self, images: Tensor) -> Tensor:
        """Return the logits of FP32 for images (N, C, H, W), and keep all values on the way."""
        logits: Tensor = self.run(images.contiguous(memory_format=torch.channels_last))
        self._fp32 = dict(self.env)
        return logits

    def outputs(self, name: str) -> list[Tensor]:
        """Return the output of each call of a module in FP32."""
        return [self._fp32[self._end(node)] for node in self.calls[name]]

    def quantized_outputs(self, name: str) -> list[Tensor]:
        """Return the output of each call of a module with that module alone quantized."""
        ends = [self._rounded_end(node) for node in self.calls[name]]
        values = self._run_changed(name, ends)
        return [values[end] for end in ends]

    def run_quantizing(self, name: str) -> Tensor:
        """Return the logits with one module alone quantized."""
        output = output_node(self.graph)
        logits: Tensor = self._run_changed(name, [output])[output]
        return logits

    def _run_changed(self, name: str, until: Sequence[Node]) -> Mapping[Node, Any]:
        """Run what depends on a module, with that quantized, as far as to some nodes; return all values."""
        calls = self.calls[name]
        changes = {node: partial(self._call_rounded, node) for node in calls}
        changes |= {node: partial(self._round, node) for node in self._observers if node.all_input_nodes[0] in calls}
        return run_again(self, self._fp32, changes, until)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module; an observer does nothing."""
        return (
            args[0] if isinstance(self.fetch_attr(target), RangeObserver) else super().call_module(target, args, kwargs)
        )

    def _round(self, node: Node) -> Tensor:
        return round_values(self._observers[node], self.env[node.all_input_nodes[0]])

    def _call_rounded(self, node: Node) -> Any:
        def read(argument: Node) -> Any:
            observer, value = self._observers.get(argument), self.env[argument]
            return value if observer is None else round_values(observer, value)

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), read)
        if node.op != "call_module":
            return getattr(self, node.op)(node.target, args, kwargs)
        return self._rounded.get(str(node.target), self.fetch_attr(str(node.target)))(*args, **kwargs)

    def _rounded_end(self, node: Node) -> Node:
        """Return the node whose value is the output of a call, rounded where it is."""
        end = self._end(node)
        return next((user for user in end.users if user in self._observers), end)

    def _end(self, node: Node) -> Node:
        """Return the last of the clamps that alone read the output of a node, or the node."""
        while len(node.users) == 1:
            reader = next(iter(node.users))
            if reader in self._observers and len(reader.users) == 1:
                reader = next(iter(reader.users))
            if not clamps(reader, self._network):
                break
            node = reader
        return node


def _rounded_modules(simulated: GraphModule, converted: GraphModule) -> dict[str, nn.Module]:
    """Return copies of the modules with weights that are INT8 in the converted network, with these weights."""
    rounded = {}
    for name in weighted_modules(simulated):
        weight = dequantized_weight(converted.get_submodule(name))
        if weight is not None:
            module = copy.deepcopy(simulated.get_submodule(name))
            layer: Any = module[0] if isinstance(module, nn.Sequential) else module
            layer.weight = nn.Parameter(weight, False)
            rounded[name] = module
    lay_out(nn.ModuleList(rounded.values()), torch.channels_last)
    return rounded


class _Int8Pass(fx.Interpreter):
    """Runs a converted network and compares the output of each module with FP32's."""

    def __init__(
        self,
        converted: GraphModule,
        ends: Mapping[str, str],
        references: Mapping[str, Sequence[Tensor]],
        sums: Mapping[str, _Sums],
    ) -> None:
        super().__init__(converted)
        self._left = {name: iter(values) for name, values in references.items()}
        self._sums = sums
        nodes = {node.name for node in converted.graph.nodes}
        self._measured: dict[str, str] = {}
        """Of the nodes whose output is compared, the module or function that it is the output of."""
        for node in converted.graph.nodes:
            if (name := step_name(node)) in references:
                end = ends.get(node.name, node.name)
                self._measured[end if end in nodes else node.name] = name

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if name := self._measured.get(n.name):
            self._sums[name].add(next(self._left[name]), output.dequantize())
        return output


def _finite(logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
    finite = logits.isfinite().all(dim=1)
    if not finite.all():
        raise DataError(f"fp32: the output for image {rows[int(finite.int().argmin())]} of val is not finite")
    return logits


def _count_right(logits: Tensor, labels: NDArray[np.int64]) -> int:
    return int((predictions(logits) == labels).sum())
