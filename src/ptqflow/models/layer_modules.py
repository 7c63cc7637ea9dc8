"""Functions with constant weights as modules of `torch.nn`, a module for each call."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from ptqflow.models.nodes import calls, copy_sharing_tensors, scope, set_module, unused_path
from ptqflow.models.shaped_tracer import SHAPE

_CONVOLUTIONS: dict[Any, Any] = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
_TRANSPOSED: dict[Any, Any] = {
    F.conv_transpose1d: nn.ConvTranspose1d,
    F.conv_transpose2d: nn.ConvTranspose2d,
    F.conv_transpose3d: nn.ConvTranspose3d,
}
_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_WITHOUT_RANGE = (nn.ReLU, nn.modules.pooling._MaxPoolNd, nn.Flatten)
"""Modules whose output has the range of their input, or is fused into what comes before it."""


def name_first_arguments(network: GraphModule) -> None:
    """Pass `input` and `other` by position, as torch's quantization expects them."""
    for node in network.graph.nodes:
        for position, name in enumerate(("input", "other")):
            if name in node.kwargs and len(node.args) == position and _takes_first(node, name, position):
                node.args = (*node.args, node.kwargs[name])
                node.kwargs = {key: value for key, value in node.kwargs.items() if key != name}


def _takes_first(node: Node, name: str, position: int) -> bool:
    if node.op != "call_function":
        return node.op == "call_method"
    try:
        return list(inspect.signature(node.target).parameters).index(name) == position  # type: ignore[arg-type]
    except ValueError:  # of torch's own functions, which have no signature and this order
        return True


def make_modules(network: GraphModule) -> None:
    """Replace functions with constant weights, and average pooling, by modules."""
    made: dict[str, nn.Module] = {}
    for node in list(network.graph.nodes):
        module = _as_module(network, node)
        if module is None:
            continue
        name = next((name for name, other in made.items() if _are_equal(other, module)), "")
        if not name:
            name = _free_name(network, node)
            made[name] = module.eval()
            set_module(network, name, module)
        with network.graph.inserting_before(node):
            call = network.graph.call_module(name, (node.args[0],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        weights = [argument for argument in node.all_input_nodes if argument.op == "get_attr"]
        network.graph.erase_node(node)
        for weight in weights:
            if not weight.users:
                network.graph.erase_node(weight)


def separate_calls(network: GraphModule) -> None:
    """Let each call of a module call a copy of its own, with the same tensors."""
    called: set[str] = set()
    for node, module in calls(network, nn.Module):
        path = str(node.target)
        if path in called and not isinstance(module, _WITHOUT_RANGE):
            node.target = unused_path(path, network)
            set_module(network, node.target, copy_sharing_tensors(module))
        called.add(path)


def make_batch_norm(rank: int, tensors: tuple[Tensor | None, ...], eps: float) -> nn.Module | None:
    """Return batch normalization of inputs of a rank with (running mean, variance, weight, bias).

    None for a rank that there is no module for, or without running statistics.
    """
    mean, variance, weight, bias = tensors
    if rank not in _BATCH_NORMS or mean is None:
        return None
    norm = _BATCH_NORMS[rank](len(mean), eps, affine=weight is not None or bias is not None)
    norm.running_mean, norm.running_var = mean, variance
    if norm.affine:
        norm.weight = nn.Parameter(torch.ones_like(mean) if weight is None else weight.detach(), False)
        norm.bias = nn.Parameter(torch.zeros_like(mean) if bias is None else bias.detach(), False)
    result: nn.Module = norm.eval()
    return result


def _as_module(network: GraphModule, node: Node) -> nn.Module | None:
    if node.op not in ("call_function", "call_method") or node.target not in _MODULES:
        return None
    make, signature = _MODULES[node.target]
    given = dict(zip(signature, node.args, strict=False)) | dict(node.kwargs)
    values = signature | given
    source = values.pop("input")
    nodes = [value for value in values.values() if isinstance(value, Node)]
    if not given.keys() <= signature.keys() or not _is_step(source) or any(value.op != "get_attr" for value in nodes):
        return None
    constants = {
        key: operator.attrgetter(str(value.target))(network) if isinstance(value, Node) else _as_tuple(value)
        for key, value in values.items()
    }
    return make(node, constants)


def _is_step(value: Any) -> bool:
    return isinstance(value, Node) and value.op != "get_attr"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _convolution(node: Node, values: dict[str, Any]) -> nn.Module:
    weight, bias, groups = values["weight"], values["bias"], values["groups"]
    options = {key: value for key, value in values.items() if key not in ("weight", "bias")}
    channels = (weight.shape[1] * groups, weight.shape[0])
    with torch.device("meta"):
        if node.target in _TRANSPOSED:
            channels = (weight.shape[0], weight.shape[1] * groups)
        kind = (_CONVOLUTIONS | _TRANSPOSED)[node.target]
        conv = kind(*channels, tuple(weight.shape[2:]), bias=bias is not None, **options)
    return _with_weights(conv, weight, bias)


def _linear(node: Node, values: dict[str, Any]) -> nn.Module:
    weight = values["weight"]
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=values["bias"] is not None)
    return _with_weights(linear, weight, values["bias"])


def _product(node: Node, values: dict[str, Any]) -> nn.Module | None:
    weight = values["other"]
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    return _linear(node, {"weight": weight.t().contiguous(), "bias": None})


def _batch_norm(node: Node, values: dict[str, Any]) -> nn.Module | None:
    tensors = tuple(values[key] for key in ("running_mean", "running_var", "weight", "bias"))
    return None if values["training"] else make_batch_norm(len(node.meta[SHAPE]), tensors, values["eps"])


def _layer_norm(node: Node, values: dict[str, Any]) -> nn.Module | None:
    weight, bias, shape = values["weight"], values["bias"], values["normalized_shape"]
    if weight is None and bias is not None:
        return None
    with torch.device("meta"):
        norm = nn.LayerNorm(shape, values["eps"], elementwise_affine=weight is not None, bias=bias is not None)
    return norm if weight is None else _with_weights(norm, weight, bias)


def _group_norm(node: Node, values: dict[str, Any]) -> nn.Module | None:
    weight, bias = values["weight"], values["bias"]
    if (weight is None) != (bias is None):
        return None
    with torch.device("meta"):
        norm = nn.GroupNorm(values["num_groups"], node.meta[SHAPE][1], values["eps"], affine=weight is not None)
    return norm if weight is None else _with_weights(norm, weight, bias)


def _avg_pool(node: Node, values: dict[str, Any]) -> nn.Module:
    return nn.AvgPool2d(**values)


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach(), False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), False)
    return layer


_WEIGHTED = {"input": None, "weight": None, "bias": None}
_OPTIONS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED_OPTIONS = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
_NORMALIZING = {"input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None}
_LAYER_NORMALIZING = {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5}
_GROUP_NORMALIZING = {"input": None, "num_groups": None, "weight": None, "bias": None, "eps": 1e-5}
_POOLING = {"input": None, "kernel_size": None, "stride": None, "padding": 0}
_POOLING_OPTIONS = {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
_MULTIPLYING = {"input": None, "other": None}
_Maker = Callable[[Node, dict[str, Any]], nn.Module | None]
_MODULES: dict[Any, tuple[_Maker, dict[str, Any]]] = {
    **dict.fromkeys(_CONVOLUTIONS, (_convolution, _WEIGHTED | _OPTIONS)),
    **dict.fromkeys(_TRANSPOSED, (_convolution, _WEIGHTED | _TRANSPOSED_OPTIONS)),
    **dict.fromkeys((torch.matmul, operator.matmul, torch.mm, "matmul", "mm"), (_product, _MULTIPLYING)),
    F.linear: (_linear, _WEIGHTED),
    F.batch_norm: (_batch_norm, _NORMALIZING | {"training": False, "momentum": 0.1, "eps": 1e-5}),
    F.layer_norm: (_layer_norm, _LAYER_NORMALIZING),
    F.group_norm: (_group_norm, _GROUP_NORMALIZING),
    F.avg_pool2d: (_avg_pool, _POOLING | _POOLING_OPTIONS),
}
"""What makes the module of a function or method, and its arguments with their defaults, in order."""


def _are_equal(module: nn.Module, other: nn.Module) -> bool:
    tensors, others = module.state_dict(), other.state_dict()
    same = tensors.keys() == others.keys() and all(tensors[key].data_ptr() == others[key].data_ptr() for key in tensors)
    return same and repr(module) == repr(other)


def _free_name(network: GraphModule, node: Node) -> str:
    path = scope(node)
    called = {str(other.target) for other in network.graph.nodes if other.op in ("call_module", "get_attr")}
    if path and not any(target == path or target.startswith(f"{path}.") for target in called - _weights_of(node)):
        return path
    return f"{path}.{node.name}".strip(".")


def _weights_of(node: Node) -> set[str]:
    return {str(argument.target) for argument in node.all_input_nodes if argument.op == "get_attr"}
