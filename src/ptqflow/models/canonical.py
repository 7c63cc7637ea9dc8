"""The canonical form of a user's network: the same values, written as quantization and export expect them.

A `GraphModule` in evaluation mode, of modules of `torch.nn` where there is one: the form that fusion, observers and the
ONNX export have rules for.
"""

import copy
import operator
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ptqflow.core.errors import ModelError
from ptqflow.models.tracing import trace_user_code

_CONVOLUTIONS: dict[Any, Any] = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DROPOUTS = (nn.Identity, nn.modules.dropout._DropoutNd)
_WITHOUT_RANGE = (nn.ReLU, nn.modules.pooling._MaxPoolNd, nn.Flatten)
"""Modules whose output has the range of their input, or is fused into what comes before it."""
_AFFINE = ("weight", "bias")
_CONVOLUTION_OPTIONS = ("stride", "padding", "dilation", "groups")


def canonicalize(model: nn.Module, image_size: int) -> GraphModule:
    """Return the canonical form of a network, which stays unchanged and shares its tensors with it.

    The logits are the same to the bit, except with `x @ weight`, instance normalization with running statistics, batch
    normalization without, and average pooling with a count of its own: there to float32 rounding.

    - Parametrizations, `weight_norm`, `spectral_norm` and pruning are baked into the weights.
    - Arguments of `forward` after the first have their defaults.
    - What depends on parameters and buffers alone is a buffer.
    - `F.conv2d`, `F.linear`, `x @ weight` and `F.batch_norm` with such weights are modules, and so are subclasses of
      torch's layers; padding is explicit, in numbers and of zeros.
    - `AvgPool2d` averages over whole windows; what follows from `ceil_mode` and `divisor_override` is a multiplication.
    - Batch normalization without running statistics is a function of the batch.
    - A module whose INT8 form has a range of its own is called once: a copy, with a number appended to its path, stands
      for each further call.
    - Nothing works in place; `Dropout` and `Identity` are gone.

    Steps keep the paths of their modules, in `node.meta["nn_module_stack"]` too. A function that becomes a module has
    the path of the module that called it where it is all that this does, else its name is appended.

    Raises:
        ModelError: the network cannot be copied, torch.fx cannot trace it, or the form that it traces does not run; the
            error names the line of the user's code or the step.
    """
    model.eval()
    with torch.no_grad():
        model(torch.zeros(2, 3, image_size, image_size))  # what it keeps of a pass no longer needs gradients
    baked = _copied(model)
    for module in list(baked.modules()):
        _bake(module)
    graph = trace_user_code(baked)
    network = GraphModule(baked, graph, type(model).__name__)
    shapes = _Shapes(network, image_size).shapes
    steps = (_out_of_place, _drop_dropouts, _fold_constants, _as_modules, _separate_calls)
    for step in (*steps, _spell_padding, _spell_pooling, _spell_statistics):
        step(network, shapes)
        network.graph.eliminate_dead_code()
        network.recompile()
    network.delete_all_unused_submodules()
    return _renamed(network)


def scope(node: Node) -> str:
    """Return the path of the module that a step belongs to, empty for the network itself."""
    paths = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return paths[-1] if paths else ""


def function_name(node: Node) -> str:
    """Return what the function or method that a node calls is named."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def copy_sharing_tensors(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network whose parameters and buffers are those of the original."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy_sharing_tensors(model)
    except Exception as error:  # what a user's module holds may raise anything
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({error}); do not keep such an object in a module"
        ) from None


def _bake(module: nn.Module) -> None:
    """Write the weights that a module computes from other tensors as plain ones."""
    if parametrize.is_parametrized(module):
        # By hand, since torch takes them from the class, which the copy shares with the original.
        values = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
        del module.parametrizations
        module.__class__ = parametrize.type_before_parametrizations(module)
        for name, value in values.items():
            setattr(module, name, nn.Parameter(value, False))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


class _Shapes(fx.Interpreter):
    """Runs a network once and records the shapes of what its steps return."""

    def __init__(self, network: GraphModule, image_size: int) -> None:
        super().__init__(network)
        self.shapes: dict[Node, torch.Size] = {}
        self._running: Node | None = None
        try:
            with torch.no_grad():
                self.run(torch.zeros(2, 3, image_size, image_size))
        except Exception as error:  # such as for an addition in place, traced as one that promotes types
            raise ModelError(
                f"{type(network).__name__} does not run in the form that torch.fx traces: {self._running} raises "
                f"{type(error).__name__} ({' '.join(str(error).split())[:200]}); let what it adds or multiplies in "
                "place have the same type, and branch on nothing but the modules' own attributes"
            ) from None

    def run_node(self, n: Node) -> Any:
        self._running = n
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def _out_of_place(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Replace steps that overwrite their input, and let what reads the input afterwards read their result."""
    nodes = list(network.graph.nodes)
    for position, node in enumerate(nodes):
        if not _overwrites(node, network):
            continue
        source = node.all_input_nodes[0]
        later = set(nodes[position + 1 :])
        source.replace_all_uses_with(node, delete_user_cb=lambda user, later=later: user in later)
        if node.op != "call_module":
            node.target = _counterpart(node) or node.target
            node.kwargs = {key: False if key == "inplace" else value for key, value in node.kwargs.items()}
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # of a copy


def _overwrites(node: Node, network: GraphModule) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    return node.op in ("call_function", "call_method") and (
        bool(node.kwargs.get("inplace")) or _counterpart(node) is not None
    )


def _counterpart(node: Node) -> Any:
    """Return the function or method that computes out of place what one such as `relu_` computes in place."""
    name = function_name(node)
    if not name.endswith("_") or name.endswith("__"):
        return None
    name = name.rstrip("_")
    if node.op == "call_method":
        return name if callable(getattr(Tensor, name, None)) else None
    return getattr(torch, name, getattr(F, name, None))


def _drop_dropouts(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    for node in list(network.graph.nodes):
        is_module = node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), _DROPOUTS)
        is_function = node.op == "call_function" and _is_idle_dropout(node)
        if is_module or is_function:
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


def _is_idle_dropout(node: Node) -> bool:
    name = function_name(node)
    if "dropout" in name:  # (input, p, training, inplace), of which training is True by default
        training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
        return training is False
    return name == "stochastic_depth" and node.kwargs.get("training", (*node.args, True)[-1]) is False


def _fold_constants(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Compute what depends on parameters and buffers alone."""
    values: dict[Node, Any] = {}
    for node in list(network.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(network)
        elif node.op in ("call_function", "call_method") and _has_constant_inputs(node, values):
            values[node] = _compute(node, values)
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op != "get_attr" and isinstance(value, Tensor) and is_read:
            name = f"{scope(node)}.{node.name}".strip(".").replace(".", "_")
            network.register_buffer(name, value.detach())
            with network.graph.inserting_before(node):
                folded = network.graph.get_attr(name)
            folded.meta = dict(node.meta)
            shapes[folded] = value.shape
            node.replace_all_uses_with(folded)


def _has_constant_inputs(node: Node, values: dict[Node, Any]) -> bool:
    inputs = node.all_input_nodes
    return bool(inputs) and all(argument in values for argument in inputs)


def _compute(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _spell_padding(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Pad before a convolution where it pads other than with zeros alike on both sides."""
    for node, conv in _calls(network, nn.modules.conv._ConvNd):
        if isinstance(conv, nn.modules.conv._ConvTransposeNd) or (
            conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        ):
            continue
        amounts = list(conv._reversed_padding_repeated_twice)
        is_even = amounts[::2] == amounts[1::2]
        plain = copy.copy(conv)
        plain.padding_mode = "zeros"
        if is_even and conv.padding_mode == "zeros":
            plain.padding = tuple(reversed(amounts[::2]))
        else:
            plain.padding = (0,) * len(conv.kernel_size)
            _insert_pad(network, node, amounts, "constant" if conv.padding_mode == "zeros" else conv.padding_mode)
        plain._reversed_padding_repeated_twice = [amount for amount in reversed(plain.padding) for _ in range(2)]
        _set_module(network, str(node.target), plain)


def _insert_pad(network: GraphModule, node: Node, amounts: list[int], mode: str) -> None:
    source = node.all_input_nodes[0]
    with network.graph.inserting_before(node):
        padded = network.graph.call_function(F.pad, (source, amounts), {"mode": mode})
    padded.meta = dict(node.meta)
    node.replace_input_with(source, padded)


def _spell_pooling(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Average over whole windows where a pooling counts otherwise, and scale each mean to its own count."""
    for node, pool in _calls(network, nn.AvgPool2d):
        if not pool.ceil_mode and pool.divisor_override is None:
            continue
        size = shapes[node.all_input_nodes[0]][-2:]
        kernel, stride, padding = (_pair(each) for each in (pool.kernel_size, pool.stride, pool.padding))
        ones = torch.ones(1, 1, *size)
        means, amounts = pool(ones), []
        for axis in (1, 0):  # as F.pad takes them, from the last dimension on
            reach = (means.shape[2 + axis] - 1) * stride[axis] + kernel[axis]
            amounts += [padding[axis], max(0, reach - size[axis] - padding[axis])]
        plain = nn.AvgPool2d(kernel, stride)
        _set_module(network, str(node.target), plain)
        factors = means / plain(F.pad(ones, amounts))
        if any(amounts):
            _insert_pad(network, node, amounts, "constant")
        if (factors != 1).any():
            scaled = _insert_scale(network, node, factors)
            shapes[scaled] = shapes[node]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _insert_scale(network: GraphModule, node: Node, factors: Tensor) -> Node:
    """Multiply what a step returns by constants, and return the multiplication."""
    name = f"{node.name}_factors"
    network.register_buffer(name, factors)
    with network.graph.inserting_after(node):
        constant = network.graph.get_attr(name)
    with network.graph.inserting_after(constant):
        scaled = network.graph.call_function(torch.mul, (node, constant))
    constant.meta, scaled.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    return scaled


def _spell_statistics(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Replace normalizations whose statistics are not what the layer's kind says, in evaluation mode."""
    for node, norm in _calls(network, nn.modules.batchnorm._NormBase):
        is_instance = isinstance(norm, nn.modules.instancenorm._InstanceNorm)
        if is_instance and norm.running_mean is not None and len(shapes[node]) in (3, 4, 5):
            tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            _set_module(network, str(node.target), _batch_norm(len(shapes[node]), tensors, norm.eps))
        elif not is_instance and norm.running_mean is None:
            _call_batch_statistics(network, node, norm)


def _call_batch_statistics(network: GraphModule, node: Node, norm: Any) -> None:
    with network.graph.inserting_before(node):
        tensors = [network.graph.get_attr(f"{node.target}.{name}") if norm.affine else None for name in _AFFINE]
        call = network.graph.call_function(normalize_by_batch, (node.all_input_nodes[0], *tensors, norm.eps))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    network.graph.erase_node(node)


def normalize_by_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return float32 values (N, C, ...) normalized by mean and variance of each channel over the batch."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0, keepdim=True)
    normalized = (x - mean) * torch.rsqrt(variance + eps)
    if weight is None or bias is None:
        return normalized
    shape = (1, -1, *(1,) * (x.dim() - 2))
    return normalized * weight.view(shape) + bias.view(shape)


def _as_modules(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Replace functions with constant weights by modules, those with the same weights by one module."""
    made: dict[str, nn.Module] = {}
    for node in list(network.graph.nodes):
        module = _as_module(network, node, shapes) if node.op == "call_function" else None
        if module is None:
            continue
        source = node.all_input_nodes[0]
        name = next((name for name, other in made.items() if _are_equal(other, module)), "")
        if not name:
            name = _free_name(network, node)
            made[name] = module.eval()
            _set_module(network, name, module)
        with network.graph.inserting_before(node):
            call = network.graph.call_module(name, (source,))
        call.meta = dict(node.meta)
        shapes[call] = shapes[node]
        node.replace_all_uses_with(call)
        weights = [argument for argument in node.all_input_nodes if argument.op == "get_attr"]
        network.graph.erase_node(node)
        for weight in weights:
            if not weight.users:
                network.graph.erase_node(weight)


def _as_module(network: GraphModule, node: Node, shapes: dict[Node, torch.Size]) -> nn.Module | None:
    def constant(argument: Any) -> Any:
        return operator.attrgetter(str(argument.target))(network) if isinstance(argument, Node) else argument

    arguments = _bind(node)
    if not arguments or not isinstance(arguments["input"], Node) or arguments["input"].op == "get_attr":
        return None
    tensors = [value for key, value in arguments.items() if key != "input" and isinstance(value, Node)]
    if any(tensor.op != "get_attr" for tensor in tensors):
        return None
    values = {key: constant(value) for key, value in arguments.items() if key != "input"}
    if node.target in _CONVOLUTIONS:
        return _convolution(_CONVOLUTIONS[node.target], values)
    if node.target is F.linear:
        return _linear(values["weight"], values["bias"])
    if node.target is F.batch_norm:
        is_running = not values["training"] and values["running_mean"] is not None
        norm = tuple(values[key] for key in ("running_mean", "running_var", "weight", "bias"))
        rank = len(shapes[node])
        return _batch_norm(rank, norm, values["eps"]) if is_running and rank in _BATCH_NORMS else None
    weight = values["other"]
    return _linear(weight.t().contiguous(), None) if isinstance(weight, Tensor) and weight.dim() == 2 else None


def _separate_calls(network: GraphModule, shapes: dict[Node, torch.Size]) -> None:
    """Let each call of a module call a copy of its own, with the same tensors."""
    called: set[str] = set()
    for node, module in _calls(network, nn.Module):
        path = str(node.target)
        if path in called and not isinstance(module, _WITHOUT_RANGE):
            node.target = _unused(path, network)
            _set_module(network, node.target, copy_sharing_tensors(module))
        called.add(path)


def _unused(path: str, network: GraphModule) -> str:
    return next(name for number in count(1) if not _has_submodule(network, name := f"{path}_{number}"))


def _are_equal(module: nn.Module, other: nn.Module) -> bool:
    tensors, others = module.state_dict(), other.state_dict()
    same = tensors.keys() == others.keys() and all(tensors[key].data_ptr() == others[key].data_ptr() for key in tensors)
    return same and repr(module) == repr(other)


_SIGNATURES: dict[Any, dict[str, Any]] = {
    **{
        function: {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        for function in _CONVOLUTIONS
    },
    F.linear: {"input": None, "weight": None, "bias": None},
    F.batch_norm: {"input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None}
    | {"training": False, "momentum": 0.1, "eps": 1e-5},
    torch.matmul: {"input": None, "other": None},
    operator.matmul: {"input": None, "other": None},
}


def _bind(node: Node) -> dict[str, Any]:
    """Return the arguments of a call by name, none for a function that does not become a module."""
    signature = _SIGNATURES.get(node.target, {})
    given = dict(zip(signature, node.args, strict=False)) | dict(node.kwargs)
    return signature | given if given.keys() <= signature.keys() else {}


def _convolution(kind: Any, values: dict[str, Any]) -> nn.Module:
    weight, bias = values["weight"], values["bias"]
    groups, options = values["groups"], {key: values[key] for key in _CONVOLUTION_OPTIONS}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    with torch.device("meta"):
        conv = kind(
            weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), bias=bias is not None, **options
        )
    return _with_weights(conv, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with_weights(linear, weight, bias)


def _with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach(), False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), False)
    return layer


def _batch_norm(rank: int, tensors: tuple[Tensor | None, ...], eps: float) -> nn.Module:
    mean, variance, weight, bias = tensors
    assert mean is not None
    norm = _BATCH_NORMS[rank](len(mean), eps, affine=weight is not None or bias is not None)
    norm.running_mean, norm.running_var = mean, variance
    if norm.affine:
        norm.weight = nn.Parameter(torch.ones_like(mean) if weight is None else weight.detach(), False)
        norm.bias = nn.Parameter(torch.zeros_like(mean) if bias is None else bias.detach(), False)
    result: nn.Module = norm.eval()
    return result


def _calls(network: GraphModule, kind: Any) -> Iterator[tuple[Node, Any]]:
    for node in list(network.graph.nodes):
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, kind):
            yield node, module


def _free_name(network: GraphModule, node: Node) -> str:
    path = scope(node)
    called = {str(other.target) for other in network.graph.nodes if other.op in ("call_module", "get_attr")}
    if path and not any(target == path or target.startswith(f"{path}.") for target in called - _weights_of(node)):
        return path
    return f"{path}.{node.name}".strip(".")


def _weights_of(node: Node) -> set[str]:
    return {str(argument.target) for argument in node.all_input_nodes if argument.op == "get_attr"}


def _set_module(network: GraphModule, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    if parent and not _has_submodule(network, parent):
        network.add_submodule(parent, nn.Module())
    setattr(network.get_submodule(parent), name, module)


def _has_submodule(network: GraphModule, path: str) -> bool:
    return path in dict(network.named_modules())


def _renamed(network: GraphModule) -> GraphModule:
    """Name the steps as if the network had been written so, in a graph of their own."""
    graph = fx.Graph()
    copies: dict[Node, Node] = {}
    for node in network.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        name = node.name if node.op == "placeholder" else None
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, name)
        copies[node].meta = dict(node.meta)
    return GraphModule(network, graph, type(network).__name__)
