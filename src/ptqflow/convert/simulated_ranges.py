"""A prepared network with rounded weights and activations, whose ranges can be set."""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ptqflow.convert.ranges import QParams
from ptqflow.fx.fake_quant import Simulation, copy_with_rounded_weights
from ptqflow.fx.graph import name_observed, observer_nodes, weighted_modules
from ptqflow.fx.observer import RangeObserver
from ptqflow.fx.partial_pass import output_node, run_again

_FP32_SHARE = 0.02  # of all weights, at most in the layers of `small_readers`


class SimulatedRanges(Simulation):
    """Runs a copy of a prepared network; after a change of a range, only as far as that changes anything.

    Args:
        model: the FP32 network.
        prepared: it with observers.
    """

    def __init__(self, model: nn.Module, prepared: GraphModule) -> None:
        simulated = copy_with_rounded_weights(prepared)
        super().__init__(simulated)
        names = name_observed(model, prepared)
        self._observers: dict[str, RangeObserver] = {}
        self._nodes: dict[RangeObserver, list[Node]] = {}
        """Several where tensors share a range."""
        for node in observer_nodes(simulated):
            observer: Any = simulated.get_submodule(str(node.target))
            self._observers[names[str(node.target)]] = observer
            self._nodes.setdefault(observer, []).append(node)
        self._rounded = {node for nodes in self._nodes.values() for node in nodes}
        self._output = output_node(self.graph)
        self._kept: dict[Node, Any] = {}
        self._unrounded: set[RangeObserver] = set()

    @property
    def tensors(self) -> list[str]:
        """One tensor of each range."""
        return list({observer: tensor for tensor, observer in self._observers.items()}.values())

    def sharing(self, tensor: str) -> list[str]:
        """Return the tensors that have one range with this one, and it; none if it has none."""
        observer = self._observers.get(tensor)
        return [name for name, own in self._observers.items() if own is observer]

    def set_ranges(self, ranges: Mapping[str, QParams]) -> None:
        """Set the ranges of tensors."""
        for tensor, qparams in ranges.items():
            if tensor in self._observers:
                self._set(tensor, qparams)

    def _set(self, tensor: str, qparams: QParams) -> None:
        self._observers[tensor].scale, self._observers[tensor].zero_point = qparams.scale, qparams.zero_point

    def run_keeping(self, images: Tensor) -> Tensor:
        """Return the logits, and keep what the methods below need of all values."""
        self.args_iter, self.env = iter([images]), {}
        for node in self.graph.nodes:
            self.env[node] = self.run_node(node)
            for read in self._rounded & {*self.user_to_last_uses.get(node, ())}:
                del self.env[read]
        self._kept, self.env = _Kept(self.env, self._rounded, self.run_node), {}
        logits: Tensor = self._kept[self._output]
        return logits

    def without(self, tensor: str) -> Tensor:
        """Return the logits where a tensor is not rounded."""
        self._unrounded.add(self._observers[tensor])
        logits = self._logits_from(tensor)
        self._unrounded.discard(self._observers[tensor])
        return logits

    def leave(self, tensor: str) -> None:
        """Round a tensor no more, and change the values that are kept."""
        self._unrounded.add(self._observers[tensor])
        self._keep(self._run_from(tensor).maps[0])

    def small_readers(self, tensor: str) -> list[str]:
        """Return the layers that read a tensor, none if something else does or they hold many of the weights."""
        network: GraphModule = self.module  # type: ignore[assignment]
        readers = [reader for node in self._nodes[self._observers[tensor]] for reader in node.users]
        layers = weighted_modules(network)
        sizes = {name: layer.weight.numel() for name, layer in layers.items()}
        found = [str(reader.target) for reader in readers]
        if not set(found) <= set(layers) or sum(sizes[name] for name in found) > _FP32_SHARE * sum(sizes.values()):
            return []
        return list(dict.fromkeys(found))

    def with_range(self, tensor: str, qparams: QParams) -> Tensor:
        """Return the logits with another range of a tensor, which is then set back."""
        observer = self._observers[tensor]
        before = observer.scale, observer.zero_point
        self._set(tensor, qparams)
        logits = self._logits_from(tensor)
        observer.scale, observer.zero_point = before
        return logits

    def keep(self, tensor: str, qparams: QParams) -> None:
        """Change the range of a tensor, and the values that are kept."""
        self._set(tensor, qparams)
        self._keep(self._run_from(tensor).maps[0])

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module; an observer rounds, unless its tensor is left."""
        return args[0] if self.fetch_attr(target) in self._unrounded else super().call_module(target, args, kwargs)

    def _keep(self, values: Mapping[Node, Any]) -> None:
        self._kept.update((node, value) for node, value in values.items() if node not in self._rounded)

    def _logits_from(self, tensor: str) -> Tensor:
        """Return the logits after a change to a tensor; other values are freed after their last use."""
        logits: Tensor = self._run_from(tensor, self.user_to_last_uses)[self._output]
        return logits

    def _run_from(self, tensor: str, last_uses: Mapping[Node, Iterable[Node]] | None = None) -> ChainMap[Node, Any]:
        changes = {node: partial(self.run_node, node) for node in self._nodes[self._observers[tensor]]}
        values = run_again(self, self._kept, changes, [self._output], last_uses)
        self.env = {}
        return values


class _Kept(dict[Node, Any]):
    """The values of a pass, except rounded ones, which are half of the memory: they are rounded again when read."""

    def __init__(self, values: Mapping[Node, Any], rounded: Collection[Node], run: Callable[[Node], Any]) -> None:
        super().__init__(values)
        self._rounded, self._run = rounded, run

    def __contains__(self, node: object) -> bool:
        return super().__contains__(node) or node in self._rounded

    def __missing__(self, node: Node) -> Any:
        return self._run(node)
