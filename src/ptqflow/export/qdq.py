"""The QDQ graph of an INT8 network: float arithmetic with a quantization to uint8 after each step.

QDQ is ONNX's name of the form: QuantizeLinear, then DequantizeLinear. Weights are int8 in it and biases int32.
Quantization saturates at 0 and 255, as in the kernels, also if `reduce_range` chose ranges for quant_max = 127.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import InputShape
from ptqflow.fx.bias_rounding import sum_scale
from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.graph import step_name
from ptqflow.fx.layers import ends_with_relu
from ptqflow.fx.prepare import without_torch_warnings

DOMAIN = "ptqflow"
"""Of the operators Round (QuantizeLinear, then DequantizeLinear) and Expand (DequantizeLinear of weights)."""


class Rounding(NamedTuple):
    """Scale and zero point of a uint8 tensor."""

    scale: float
    zero_point: int


class _Round(torch.autograd.Function):
    """Quantizes to uint8 and dequantizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int, name: str) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)

    @staticmethod
    def symbolic(g: Any, x: Any, scale: float, zero_point: int, name: str) -> Any:
        node = g.op(f"{DOMAIN}::Round", x, scale_f=scale, zero_point_i=zero_point, name_s=name)
        sizes = x.type().sizes()
        return node.setType(x.type().with_sizes([None, *sizes[1:]]) if sizes else x.type())  # for any number of images


class _Expand(torch.autograd.Function):
    """Dequantizes int8 or int32 values with zero point 0 and one scale, or one for each index of `axis`."""

    @staticmethod
    def forward(ctx: Any, quantized: Tensor, scale: Tensor, axis: int) -> Tensor:
        shape = [1] * quantized.dim()
        if scale.dim():
            shape[axis] = -1
        return quantized.float() * scale.view(shape)

    @staticmethod
    def symbolic(g: Any, quantized: Any, scale: Any, axis: int) -> Any:
        node = g.op(f"{DOMAIN}::Expand", quantized, scale, axis_i=axis)
        return node.setType(quantized.type().with_dtype(torch.float32))


def round_to_uint8(x: Tensor, scale: float, zero_point: int, name: str) -> Tensor:
    """Quantize float32 values of any shape to uint8 and dequantize them; `name` is that of the step that computes x."""
    return _apply(_Round, x, scale, zero_point, name)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    return apply(*arguments)


class _Weighted(nn.Module):
    """A convolution or a linear layer with int8 weights, with the activation and the addition fused into it."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    bias_scale: Tensor | None

    def __init__(self, layer: Any, input_rank: int, input_scale: float) -> None:
        super().__init__()
        self.activation = _activation(layer)
        self.convolution = _convolution(layer)
        weight, bias = layer.weight(), layer.bias()
        bias = None if bias is None else bias.detach().float().contiguous()
        # MatMul, unlike Gemm, takes inputs of any rank, and its weight the other way round.
        self.axis = 1 if self.convolution is None and input_rank != 2 else 0
        values = weight.int_repr().t() if self.axis else weight.int_repr()
        self.register_buffer("weight", values.contiguous())
        self.register_buffer("scale", sum_scale(weight, 1.0))
        self.register_buffer("bias", bias)
        self.register_buffer("bias_scale", None)
        if bias is not None and not self.axis:
            self.bias, self.bias_scale = _rounded_bias(bias, sum_scale(weight, input_scale))

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        weight = _apply(_Expand, self.weight, self.scale, self.axis)
        bias = self.bias
        if bias is not None and self.bias_scale is not None:
            bias = _apply(_Expand, bias, self.bias_scale, 0)
        if self.convolution is not None:
            x = self.convolution(x, weight, bias)
        elif self.axis:
            x = torch.matmul(x, weight) if bias is None else torch.matmul(x, weight) + bias
        else:
            x = F.linear(x, weight, bias)
        return self.activation(x if summand is None else x + summand)


def _rounded_bias(bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a bias as int32, as kernels take it, and its scale; unchanged and None if a value is out of range."""
    values = (bias.double() / scale.double()).round()
    return (values.to(torch.int32), scale) if values.abs().max() < 2**31 else (bias, None)


class _FloatOutput(nn.Module):
    """A layer whose sums are not rounded, with int8 weights.

    ONNX Runtime runs a linear layer of inputs of rank 2 in INT8 as Gemm with an int32 bias alone: it makes MatMul and
    Add a Gemm in float, and then dequantizes the weight with each image. Of any other rank it takes MatMul.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    bias_scale: Tensor | None

    def __init__(self, layer: FloatOutput, input_rank: int, input_scale: float | None) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("scale", layer.scale.flatten() if layer.scale.numel() > 1 else layer.scale.squeeze())
        self.register_buffer("bias", layer.bias)
        self.register_buffer("bias_scale", None)
        if not layer.is_convolution and input_rank == 2 and layer.bias is not None and input_scale is not None:
            self.bias, self.bias_scale = _rounded_bias(layer.bias, self.scale * torch.tensor(input_scale))
        self.axis = 0 if layer.is_convolution or self.bias_scale is not None else 1
        self.register_buffer("weight", (layer.weight.t() if self.axis else layer.weight).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        weight = _apply(_Expand, self.weight, self.scale, self.axis)
        if self.layer.is_convolution:
            return self.layer.compute(x, weight)
        if self.bias_scale is not None:
            result = F.linear(x, weight, _apply(_Expand, self.bias, self.bias_scale, 0))
        else:
            sums = torch.matmul(x, weight)
            result = sums if self.bias is None else sums + self.bias
        return F.relu(result) if self.layer.relu else result


class _Kernel(nn.Module):
    """An INT8 module without int8 weights, in float arithmetic."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.float_type: Any = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn."))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.float_type.forward(self.layer, x)
        return F.relu(result) if ends_with_relu(self.layer) else result


@dataclass(frozen=True)
class _Packed:
    """Weights that a functional call brings, in the form of a layer."""

    packed: Any
    kind: str

    def weight(self) -> Any:
        return self.packed.unpack()[0]

    def bias(self) -> Any:
        return self.packed.unpack()[1]


def _kind(layer: Any) -> str:
    return layer.kind if isinstance(layer, _Packed) else type(layer).__name__.lower()


def _activation(layer: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation that is fused into a layer."""
    if "leaky" in _kind(layer):
        return partial(F.leaky_relu, negative_slope=layer.negative_slope)
    if "tanh" in _kind(layer):
        return torch.tanh
    return F.relu if "relu" in _kind(layer) else nn.Identity()


def _convolution(layer: Any) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Return the convolution of a layer, None for a linear one."""
    if "conv" not in _kind(layer):
        return None
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[layer.weight().dim()]
    geometry = layer.packed if isinstance(layer, _Packed) else layer
    values = {name: _value(getattr(geometry, name)) for name in ("stride", "padding", "dilation", "groups")}
    if getattr(layer, "padding_mode", "zeros") == "zeros":
        return partial(function, **values)
    pad = partial(F.pad, pad=layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    return lambda x, weight, bias: function(pad(x), weight, bias, **(values | {"padding": 0}))


def _value(attribute: Any) -> Any:
    return attribute() if callable(attribute) else attribute  # packed weights have methods


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "add_relu": lambda a, b: F.relu(a + b),
    "mul": torch.mul,
    "mul_relu": lambda a, b: F.relu(a * b),
    "matmul": torch.matmul,
    "cat": torch.cat,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "sigmoid": torch.sigmoid,
    "softmax": torch.softmax,
    "layer_norm": F.layer_norm,
    "group_norm": F.group_norm,
    "instance_norm": F.instance_norm,
}
_WEIGHTED = {"linear", "linear_relu", *(f"conv{n}d{relu}" for n in (1, 2, 3) for relu in ("", "_relu"))}
_QPARAM = re.compile(r"_(scale|zero_point)_\d+$")


class _Roundings(fx.Interpreter):
    """Runs an INT8 network and records scale and zero point of its steps' outputs, and their ranks."""

    def __init__(self, converted: GraphModule) -> None:
        super().__init__(converted)
        self.roundings: dict[Node, Rounding] = {}
        self.ranks: dict[Node, int] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.ranks[n] = result.dim()
            if result.is_quantized:
                self.roundings[n] = Rounding(result.q_scale(), result.q_zero_point())
        return result


class _Outputs(_Roundings):
    """Runs an INT8 network and keeps the dequantized outputs of its steps."""

    def __init__(self, converted: GraphModule) -> None:
        super().__init__(converted)
        self.values: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.roundings:
            self.values[n] = result.dequantize()  # a copy: a fused addition overwrites its summand
        return result


def step_names(converted: GraphModule) -> dict[Node, str]:
    """Return names of the steps: the path of the called module at its first call, else the name of the node."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    for node in converted.graph.nodes:
        path = str(node.target)
        names[node] = node.name if path in taken else step_name(node)
        taken.add(names[node])
    return names


def passes_through(node: Node, converted: GraphModule) -> bool:
    """Return whether the output of a step has the values of its input."""
    if node.op == "call_module":
        return isinstance(converted.get_submodule(str(node.target)), nn.Dropout | nn.Identity)
    return node.target in ("dequantize", "contiguous") or str(node.target) == "quantized.dropout"


@dataclass(frozen=True)
class StepOutput:
    """The dequantized output of a step of an INT8 network."""

    rounding: Rounding
    values: NDArray[np.float32]


def step_roundings(converted: GraphModule, input_shape: InputShape) -> dict[str, Rounding]:
    """Return scale and zero point of the output of each step of an INT8 network, by name, where it is quantized."""
    seen, names = _run_on_zeros(converted, input_shape), step_names(converted)
    return {names[node]: rounding for node, rounding in seen.roundings.items()}


def step_outputs(converted: GraphModule, images: Tensor) -> dict[str, StepOutput]:
    """Return the quantized outputs of an INT8 network's steps for float32 images (N, C, H, W), in their order."""
    seen, names = _Outputs(converted), step_names(converted)
    with without_torch_warnings(), torch.inference_mode():
        seen.run(images)
    return {
        names[node]: StepOutput(seen.roundings[node], values.numpy())
        for node, values in seen.values.items()
        if not passes_through(node, converted)
    }


def build_qdq(converted: GraphModule, input_shape: InputShape) -> GraphModule:
    """Return the QDQ graph of a converted network, whose engine is selected.

    Args:
        converted: the INT8 network of torch.
        input_shape: channels, height and width of an image.

    Raises:
        ModelError: there is no float operation for a step; the error names it.
    """
    builder = _Builder(converted, _run_on_zeros(converted, input_shape))
    for node in converted.graph.nodes:
        builder.add(node)
    graph = GraphModule(builder.modules, builder.graph).eval()
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _run_on_zeros(converted: GraphModule, input_shape: InputShape) -> _Roundings:
    seen = _Roundings(converted)
    with without_torch_warnings(), torch.inference_mode():
        seen.run(torch.zeros(2, *input_shape))
    return seen


class _Builder:
    """Copies a converted network step by step."""

    def __init__(self, converted: GraphModule, seen: _Roundings) -> None:
        self.converted, self.seen = converted, seen
        self.graph = fx.Graph()
        self.modules: dict[str, Any] = {}
        self.copies: dict[Node, Node] = {}
        self.names = step_names(converted)

    def add(self, node: Node) -> None:
        """Add the next step in float arithmetic, and a quantization after it if its output is quantized."""
        if passes_through(node, self.converted):
            self.copies[node] = self.copies[node.all_input_nodes[0]]
            return
        name = self.names[node]
        copy = self._call(node, name)
        if rounding := self.seen.roundings.get(node):
            copy = self.graph.call_function(round_to_uint8, (copy, *rounding, name))
        self.copies[node] = copy

    def _call(self, node: Node, name: str) -> Node:
        if node.target is torch.quantize_per_tensor:
            return self.copies[node.all_input_nodes[0]]
        if node.op == "call_module":
            return self._call_module(node, name)
        if str(node.target).startswith("quantized."):
            return self._call_kernel(node, name)
        if node.op == "get_attr":
            self.modules[str(node.target)] = attrgetter(str(node.target))(self.converted)
        return self.graph.node_copy(node, self.copies.__getitem__)

    def _call_module(self, node: Node, name: str) -> Node:
        layer: Any = self.converted.get_submodule(str(node.target))
        if isinstance(layer, FloatOutput):
            self.modules[name] = self._float_output(layer, node)
            return self.graph.call_module(name, (self.copies[node.all_input_nodes[0]],))
        if "quantized" not in type(layer).__module__:
            self.modules[str(node.target)] = layer
            return self.graph.node_copy(node, self.copies.__getitem__)
        weighted = callable(getattr(layer, "weight", None))
        self.modules[name] = self._weighted(layer, node) if weighted else _Kernel(layer)
        return self.graph.call_module(name, tuple(self.copies[argument] for argument in node.all_input_nodes))

    def _call_kernel(self, node: Node, name: str) -> Node:
        kind = str(node.target).removeprefix("quantized.")
        if kind in _WEIGHTED and isinstance(node.args[1], Node):
            packed = attrgetter(str(node.args[1].target))(self.converted)
            self.modules[name] = self._weighted(_Packed(packed, kind), node)
            return self.graph.call_module(name, (self.copies[node.all_input_nodes[0]],))
        if kind not in _FUNCTIONS:
            raise ModelError(
                f"{name}: the ONNX export does not support torch's INT8 kernel {kind}; list the module that calls it "
                "in convert.keep_fp32, or set export.onnx=false"
            )
        arguments = tuple(argument for argument in node.args if not _is_qparam(argument))
        options = {key: value for key, value in node.kwargs.items() if not key.startswith("output_")}
        copy_of = self.copies.__getitem__
        return self.graph.call_function(_FUNCTIONS[kind], fx.map_arg(arguments, copy_of), fx.map_arg(options, copy_of))

    def _float_output(self, layer: FloatOutput, node: Node) -> nn.Module:
        source = node.all_input_nodes[0]
        while source not in self.seen.roundings and passes_through(source, self.converted):
            source = source.all_input_nodes[0]
        rounding = self.seen.roundings.get(source)
        return _FloatOutput(layer, self.seen.ranks[source], rounding and rounding.scale)

    def _weighted(self, layer: Any, node: Node) -> nn.Module:
        source = node.all_input_nodes[0]
        return _Weighted(layer, self.seen.ranks[source], self.seen.roundings[source].scale)


def _is_qparam(argument: Any) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr" and bool(_QPARAM.search(str(argument.target)))
