"""Which layers of a converted network run on INT8, which stayed FP32, and why."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.ao.nn.intrinsic import quantized as nniq
from torch.fx import GraphModule, Node

from ptqflow.core.text_table import format_text_table
from ptqflow.fx.float_output import FloatOutput
from ptqflow.fx.fp32_steps import quantizable
from ptqflow.fx.graph import fused_steps, step_name, trace
from ptqflow.fx.prepare import fp32_reason
from ptqflow.models.nodes import function_name

Precision = Literal["int8", "fp32"]

# Steps that move values or look at shapes and compute nothing.
_PASSIVE_MODULES = (nn.Identity, nn.Dropout, nn.Flatten)
_PASSIVE_FUNCTIONS = {
    *("getattr", "getitem", "eq", "ne", "_assert", "floordiv", "quantize_per_tensor", "dequantize", "flatten"),
    *(
        "reshape",
        "view",
        "permute",
        "transpose",
        "dim",
        "size",
        "expand",
        "contiguous",
        "chunk",
        "unsqueeze",
        "squeeze",
    ),
}


@dataclass(frozen=True)
class Layer:
    """A step of a converted network that computes something."""

    name: str
    operation: str
    precision: Precision
    note: str
    """What was fused into it, or why it is not INT8."""


def list_layers(model: nn.Module, converted: GraphModule) -> list[Layer]:
    """List the computing steps of a converted network in the order in which they run.

    Args:
        model: the FP32 network that it was made from; what of it is gone has been fused.
        converted: the network as it runs.
    """
    steps = fused_steps(trace(model), converted)
    fused = {str(node.target): [step_name(step) for step in followed[1:]] for node, followed in steps.items()}
    int8_values: set[Node] = set()
    sizes: set[Node] = set()
    layers = []
    for node in converted.graph.nodes:
        if _is_size(node, sizes):
            sizes.add(node)
            continue
        has_int8_kernel = _has_int8_kernel(node, converted)
        float_output = _has_float_output(node, converted)
        takes_int8 = any(argument in int8_values for argument in node.all_input_nodes[:1])
        if (
            has_int8_kernel
            or node.name.startswith("quantize_per_tensor")
            or (takes_int8 and node.target != "dequantize")
        ):
            int8_values.add(node)
        if (operation := _operation(node, converted)) is None:
            continue
        name = step_name(node)
        if has_int8_kernel or float_output:
            notes = [f"with {', '.join(fused[name])}"] if fused.get(name) else []
            notes += ["its output is not rounded"] if float_output else []
            layers.append(Layer(name, operation, "int8", "; ".join(notes)))
        elif takes_int8:
            layers.append(Layer(name, operation, "int8", "works on INT8 values unchanged"))
        else:
            layers.append(Layer(name, operation, "fp32", _reason(node, converted)))
    return layers


def ends_with_relu(batch_norm: nn.Module) -> bool:
    """Return whether ReLU is fused into an INT8 batch normalization."""
    return isinstance(batch_norm, nniq.BNReLU2d | nniq.BNReLU3d)


def count_layers(layers: list[Layer]) -> dict[str, int]:
    """Count the layers of each precision."""
    return {precision: sum(layer.precision == precision for layer in layers) for precision in get_args(Precision)}


def summarize_layers(layers: list[Layer]) -> str:
    """Return how many layers run on INT8, and how many on FP32 for which reason, the most frequent first."""
    count = count_layers(layers)
    reasons = Counter(layer.note for layer in layers if layer.precision == "fp32")
    why = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    return f"{count['int8']} layers on INT8, {count['fp32']} on FP32{f' ({why})' if why else ''}"


def describe_layers(layers: list[Layer]) -> str:
    """Return a table with a line for each layer."""
    return format_text_table([(layer.precision, layer.name, layer.operation, layer.note) for layer in layers]) + "\n"


def _is_size(node: Node, sizes: set[Node]) -> bool:
    """Return whether a node returns the shape of its input, or is arithmetic on shapes alone."""
    if node.target in ("size", "dim") or (node.target is getattr and node.args[1] == "shape"):
        return True
    return bool(node.all_input_nodes) and all(argument in sizes for argument in node.all_input_nodes)


def _has_int8_kernel(node: Node, converted: GraphModule) -> bool:
    if node.op == "call_module":
        return "quantized" in type(converted.get_submodule(str(node.target))).__module__
    return node.op == "call_function" and str(node.target).startswith("quantized.")


def _has_float_output(node: Node, converted: GraphModule) -> bool:
    return node.op == "call_module" and isinstance(converted.get_submodule(str(node.target)), FloatOutput)


def _operation(node: Node, converted: GraphModule) -> str | None:
    """Return the name of what a node computes, None if it computes nothing."""
    if node.op == "call_module":
        module = converted.get_submodule(str(node.target))
        if isinstance(module, FloatOutput):
            return module.kind.__name__
        passive = isinstance(module, _PASSIVE_MODULES) or type(module).__name__ == "Dropout"
        return None if passive else type(module).__name__
    if node.op in ("call_function", "call_method"):
        name = str(node.target).removeprefix("quantized.") if "quantized." in str(node.target) else function_name(node)
        return None if name in _PASSIVE_FUNCTIONS else name
    return None


def _reason(node: Node, converted: GraphModule) -> str:
    if reason := fp32_reason(node):
        return reason
    kind: Any = type(converted.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    if kind not in quantizable():
        return "torch has no INT8 kernel for it"
    return "torch has an INT8 kernel for it, but not for how it is used here"
