"""Scale the channels of what a normalization returns, and take the scales back in the layers that read it.

The equivalent transformation of SmoothQuant: G. Xiao et al., SmoothQuant: Accurate and Efficient Post-Training
Quantization for Large Language Models, ICML 2023, arXiv:2211.10438. The network computes the same, to float32 rounding.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from ptqflow.core.normalization import InputShape
from ptqflow.fx.graph import tensor_names, trace
from ptqflow.models.nodes import copy_sharing_tensors, function_name
from ptqflow.models.plain_options import normalize_by_root_mean_square

Scales = Mapping[str, tuple[float, ...]]
"""What each channel of the output of a normalization is divided by, by its name in `Pair`."""

_MOVING = frozenset(
    (
        *("reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "contiguous"),
        *("roll", "pad", "getitem", "squeeze", "unsqueeze", "expand", "relu"),
    )
)
"""Functions that only move values or set some to zero, so that they commute with positive factors."""
_MOVING_MODULES = (nn.ReLU, nn.Flatten, nn.Unflatten)
_SIZES = frozenset(("size", "dim", "getattr"))


@dataclass(frozen=True)
class Pair:
    """A normalization with a weight, and the linear layers and convolutions that alone read it."""

    normalization: str
    """Its path, of a function the name of its step."""
    parameters: tuple[str, ...]
    """Its weight and, if it has one, its bias, by their names in the network; (channels,)."""
    tensors: dict[str, int]
    """The dimension of the channels, counted from the last one on as -1, in its output and all that is moved of it on
    the way to the layers; by the names of `tensor_names`."""
    layers: tuple[str, ...]


def find_pairs(model: nn.Module, input_shape: InputShape) -> list[Pair]:
    """Return the normalizations whose channels can be scaled without a change of what the network computes.

    They are LayerNorm and RMSNorm over the last dimension, and GroupNorm. Between them and the layers, values may be
    moved, such as into windows, padded with zeros and go through ReLU.

    Args:
        model: FP32, in evaluation mode.
        input_shape: channels, height and width of an image.
    """
    traced = trace(model)
    candidates = [found for node in traced.graph.nodes if (found := _candidate(node, traced))]
    if not candidates:
        return []
    layout = _Layout(traced, {found.node: found.dimension for found in candidates})
    with torch.inference_mode():
        layout.run(torch.zeros(1, *input_shape))
    names = tensor_names(traced)
    pairs = (_pair(found, layout.dimensions, names, traced) for found in candidates)
    return [pair for pair in pairs if pair]


def smooth(model: nn.Module, input_shape: InputShape, scales: Scales) -> nn.Module:
    """Return a copy of a network with scaled channels, which computes the same; the original if there are no scales.

    Args:
        model: FP32, in evaluation mode, in its canonical form.
        input_shape: channels, height and width of an image.
        scales: of its pairs, such as on the card of the INT8 network that was made from the result.
    """
    return scale_channels(model, find_pairs(model, input_shape), scales) if scales else model


def scale_channels(model: nn.Module, pairs: Iterable[Pair], scales: Scales) -> nn.Module:
    """Do as `smooth`, with the pairs that `find_pairs` returned."""
    smoothed = copy_sharing_tensors(model)
    for pair in pairs:
        if pair.normalization not in scales:
            continue
        factors = torch.tensor(scales[pair.normalization], dtype=torch.float32)
        for name in pair.parameters:
            _set(smoothed, name, _get(model, name) / factors)
        for layer in pair.layers:
            weight = _get(model, f"{layer}.weight")
            _set(smoothed, f"{layer}.weight", weight * factors.reshape(-1, *(1,) * (weight.dim() - 2)))
    return smoothed


@dataclass(frozen=True)
class _Candidate:
    node: Node
    parameters: tuple[str, ...]
    dimension: int
    """Of the channels of the output."""


def _candidate(node: Node, traced: GraphModule) -> _Candidate | None:
    """Return a normalization with a weight for each channel that nothing else reads, None for any other step."""
    if node.target is normalize_by_root_mean_square:
        _, rank, weight, _ = node.args
        alone = isinstance(weight, Node) and weight.op == "get_attr" and len(weight.users) == 1
        if not alone or rank != 1 or _reads(str(weight.target), traced) != 1:  # type: ignore[union-attr]
            return None
        return _Candidate(node, (str(weight.target),), -1)  # type: ignore[union-attr]
    if node.op != "call_module" or not _is_called_once(str(node.target), traced):
        return None
    norm = traced.get_submodule(str(node.target))
    is_layer_norm = isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 1
    if not (is_layer_norm or isinstance(norm, nn.GroupNorm)) or norm.weight is None:
        return None
    parameters = [name for name, _ in norm.named_parameters()]
    return _Candidate(node, tuple(f"{node.target}.{name}" for name in parameters), -1 if is_layer_norm else 1)


def _is_called_once(path: str, traced: GraphModule) -> bool:
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    return calls[path] == 1 and not _reads(f"{path}.weight", traced) and not _reads(f"{path}.bias", traced)


def _reads(name: str, traced: GraphModule) -> int:
    return sum(node.op == "get_attr" and node.target == name for node in traced.graph.nodes)


def _pair(
    found: _Candidate, dimensions: Mapping[Node, int], names: Mapping[Node, str], traced: GraphModule
) -> Pair | None:
    """Return None if the channels are not in one dimension all the way, or if anything but a layer reads them."""
    layers: dict[str, None] = {}
    passed = [found.node]
    for node in passed:  # grows
        if node not in dimensions:
            return None
        for user in node.users:
            if _takes_channels(user, dimensions[node], traced):
                layers[str(user.target)] = None
            elif _moves(user, traced):
                passed += [] if user in passed else [user]
            elif function_name(user) not in _SIZES:
                return None
    name = str(found.node.target) if found.node.op == "call_module" else found.node.name
    tensors = {names[node]: dimensions[node] for node in passed}
    return Pair(name, found.parameters, tensors, tuple(layers)) if layers else None


def _takes_channels(node: Node, dimension: int, traced: GraphModule) -> bool:
    """Return whether a step is a layer with a column of weights for each index of a dimension of its input."""
    if node.op != "call_module" or not _is_called_once(str(node.target), traced):
        return False
    layer = traced.get_submodule(str(node.target))
    if type(layer) is nn.Conv2d:
        return dimension == -3 and layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear and dimension == -1


def _moves(node: Node, traced: GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _MOVING_MODULES)
    return node.op in ("call_function", "call_method") and function_name(node) in _MOVING


class _Layout(fx.Interpreter):
    """Runs a network in which normalizations return the numbers of their channels, and finds where these go."""

    def __init__(self, traced: GraphModule, normalizations: Mapping[Node, int]) -> None:
        super().__init__(traced)
        self._network = traced
        self._normalizations = normalizations
        self._numbers: dict[Node, Tensor] = {}
        """Those that a step's values are, from 1 on, (channels,)."""
        self.dimensions: dict[Node, int] = {}
        """Of the channels, counted from the last one on, where all values of a channel have its number or are zero."""

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if n in self._normalizations:
            dimension = self._normalizations[n] % output.dim()
            channels = output.shape[dimension]
            self._numbers[n] = torch.arange(1.0, channels + 1)
            output = _along(self._numbers[n], dimension, output.dim()).expand_as(output).contiguous()
        elif _moves(n, self._network) and n.all_input_nodes[0] in self._numbers:
            self._numbers[n] = self._numbers[n.all_input_nodes[0]]
        if n in self._numbers and isinstance(output, Tensor):
            self._find(n, output)
        return output

    def _find(self, node: Node, output: Tensor) -> None:
        numbers = self._numbers[node]
        for dimension in range(output.dim()):
            if output.shape[dimension] == len(numbers) > 1:
                expected = _along(numbers, dimension, output.dim())
                if ((output == expected) | (output == 0)).all():
                    self.dimensions[node] = dimension - output.dim()


def _along(values: Tensor, dimension: int, dimensions: int) -> Tensor:
    return values.reshape([-1 if one == dimension else 1 for one in range(dimensions)])


def _get(network: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    value: Tensor = getattr(network.get_submodule(path), attribute)
    return value.detach()


def _set(network: nn.Module, name: str, value: Tensor) -> None:
    path, _, attribute = name.rpartition(".")
    owner = network.get_submodule(path)
    setattr(owner, attribute, value if attribute in owner._buffers else nn.Parameter(value, False))
