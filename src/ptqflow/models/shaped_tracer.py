"""A tracer of torch.fx that runs each step for two numbers of images while it traces it.

A size that is equal in both is a number, on which the user's code may branch. The number of images is a step.
"""

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from ptqflow.core.normalization import InputShape

SHAPE = "shape"
"""Key of the meta of a step that returns a tensor: its shape for two images."""
_BATCHES = (2, 3)


class _Shape(tuple[Any, ...]):
    """Sizes of a tensor: numbers, and proxies for those that depend on the number of images."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _as_shape(found) if isinstance(key, slice) else found

    def __fx_create_arg__(self, tracer: fx.Tracer) -> tuple[Any, ...]:
        return tuple(tracer.create_arg(size) for size in self)

    def numel(self) -> Any:
        """Return the number of elements, as `torch.Size` does."""
        return math.prod(self)


def _as_shape(sizes: tuple[Any, ...]) -> Any:
    return torch.Size(sizes) if all(isinstance(size, int) for size in sizes) else _Shape(sizes)


class _Proxy(fx.Proxy):
    """What a step returns, with its values for each number of images."""

    tracer: "ShapedTracer"
    results_: tuple[Any, ...] = ()
    """For each number of images; with an underscore, since what tensors have, such as `values`, is the user's."""

    def __getattr__(self, k: str) -> "_Attribute":
        if not all(hasattr(value, k) for value in self.results_):
            raise AttributeError(f"{type(self.results_[0]).__name__} has no attribute {k}")
        return _Attribute(self, k)

    @classmethod
    def __torch_function__(
        cls, orig_method: Any, types: Any, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = map_aggregate((args or (), kwargs or {}), lambda value: value)  # in which a shape is a tuple
        return super().__torch_function__(orig_method, types, args, kwargs)

    @property
    def shape(self) -> Any:
        sizes = self._sizes()
        return _Attribute(self, "shape") if sizes is None else sizes

    @property
    def ndim(self) -> Any:
        return self._equal("ndim")

    @property
    def dtype(self) -> Any:
        return self._equal("dtype")

    @property
    def device(self) -> Any:
        return self._equal("device")

    def size(self, dim: int | None = None) -> Any:
        shape = self._sizes()
        if shape is None:
            return _Attribute(self, "size")(*(() if dim is None else (dim,)))
        return shape if dim is None else shape[dim]

    def dim(self) -> Any:
        return self._equal("ndim")

    def __len__(self) -> int:
        length = self.length_()
        if length is None:
            raise NumberOfImagesError("len() of a batch")
        return length

    def __int__(self) -> int:
        raise self.tracer.untraceable(self, "int() of a tensor")

    def __index__(self) -> int:
        raise self.tracer.untraceable(self, "an integer of a tensor")

    def __float__(self) -> float:
        raise self.tracer.untraceable(self, "float() of a tensor")

    def length_(self) -> int | None:
        """Return the length of a tuple, or of a tensor whose first size is a number; else None."""
        lengths = {len(value) for value in self.results_ if isinstance(value, Tensor | tuple | list)}
        return lengths.pop() if len(lengths) == 1 else None

    def _equal(self, name: str) -> Any:
        found = {getattr(value, name, None) for value in self.results_}
        return found.pop() if len(found) == 1 and None not in found else _Attribute(self, name)

    def _sizes(self) -> Any:
        """Return the sizes of a tensor, None for what is none or has another rank for each batch."""
        shapes = [value.shape for value in self.results_ if isinstance(value, Tensor)]
        if len(shapes) < len(_BATCHES) or len(set(map(len, shapes))) > 1:
            return None
        return _as_shape(
            tuple(self.tracer.size(self, axis, sizes) for axis, sizes in enumerate(zip(*shapes, strict=True)))
        )


class _Attribute(fx.proxy.Attribute, _Proxy):
    """What a step returns has this attribute."""

    @property
    def results_(self) -> tuple[Any, ...]:  # type: ignore[override]
        root: Any = self.root
        return tuple(getattr(value, self.attr) for value in root.results_)


class NumberOfImagesError(fx.proxy.TraceError):
    """The code needs the number of images as a number."""


class StepError(Exception):
    """A traced step does not run."""

    def __init__(self, step: str, count: int, error: Exception) -> None:
        super().__init__(f"for {count} images, {step} raises {type(error).__name__} ({error})")


class ShapedTracer(fx.Tracer):
    """Runs the steps that it traces."""

    def __init__(self, input_shape: InputShape) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._images = [torch.randn(count, *input_shape, generator=generator) for count in _BATCHES]
        self._number_of_images: Any = None
        self._is_running = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace a network, whose number of images is the first step if any step reads it."""
        graph = super().trace(root, concrete_args)
        if not self._number_of_images.node.users:
            graph.erase_node(self._number_of_images.node)
        return graph

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> Any:
        """Create the input, then its number of images."""
        function, arguments = super().create_args_for_root(*args, **kwargs)
        self._number_of_images = self.create_proxy("call_method", "size", (arguments[1], 0), {})
        return function, arguments

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Trace into what has hooks, which a later form of the module would lose."""
        hooks = len(m._forward_hooks) + len(m._forward_pre_hooks)
        return super().is_leaf_module(m, module_qualified_name) and not hooks

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for the result of a step."""
        return _Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *options: Any, **more: Any
    ) -> Any:
        """Add a step and run it."""
        proxy: Any = super().create_proxy(kind, target, args, kwargs, *options, **more)
        values = []
        for index, count in enumerate(_BATCHES):
            try:
                values.append(self._run(kind, target, args, kwargs, index))
            except Exception as error:  # such as for an addition in place, traced as one that promotes types
                raise StepError(str(target) if kind == "call_module" else proxy.node.name, count, error) from None
        proxy.results_ = tuple(values)
        if isinstance(proxy.results_[0], Tensor):
            proxy.node.meta[SHAPE] = proxy.results_[0].shape
        return proxy

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Return a parameter as a step, while a step runs itself."""
        return attr_val if self._is_running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Add a step for a module, or call it while a step runs."""
        return forward(*args, **kwargs) if self._is_running else super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuse a branch, except on whether a number of images equals itself."""
        if obj.node.target in (operator.eq, operator.ne) and len(obj.node.all_input_nodes) == 1 and _is_count(obj.node):
            left, right = obj.node.args
            if left is right:
                return obj.node.target is operator.eq
        raise self.untraceable(obj, "a branch on a tensor")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Iterate over what has a fixed length."""
        length = obj.length_() if isinstance(obj, _Proxy) else None
        if length is None:
            raise self.untraceable(obj, "a loop over a tensor")
        items: Any = obj
        return (items[index] for index in range(length))

    def size(self, proxy: fx.Proxy, axis: int, sizes: tuple[int, ...]) -> Any:
        """Return a size of a tensor as a number, or as a step where it depends on the number of images."""
        if len(set(sizes)) == 1:
            return sizes[0]
        is_number_of_images = sizes == _BATCHES
        return (
            self._number_of_images
            if is_number_of_images
            else self.create_proxy("call_method", "size", (proxy, axis), {})
        )

    def untraceable(self, proxy: fx.Proxy, what: str) -> fx.proxy.TraceError:
        """Return the error for code that needs what a step returns as a number."""
        is_count = _is_count(proxy.node)
        return (
            NumberOfImagesError(what.replace("a tensor", "the number of images"))
            if is_count
            else fx.proxy.TraceError(what)
        )

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> Any:
        if kind == "placeholder":
            return self._images[index]

        def value(argument: Any) -> Any:
            return argument.results_[index] if isinstance(argument, _Proxy) else argument

        args, kwargs = map_aggregate((args, kwargs), value)
        with self._running():
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            if kind == "call_module":
                return self.root.get_submodule(target)(*args, **kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False


def _is_count(node: fx.Node) -> bool:
    """Return whether a step computes a number from sizes, not from values."""
    if SHAPE in node.meta:
        return False
    is_size = node.target in ("size", "numel") or (node.target is getattr and node.args[1] == "shape")
    return is_size or (bool(node.all_input_nodes) and all(map(_is_count, node.all_input_nodes)))
