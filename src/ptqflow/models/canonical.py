"""The canonical form of a user's network: the same values, written as quantization and export expect them.

A `GraphModule` in evaluation mode, of modules of `torch.nn` where there is one: the form that fusion, observers and the
ONNX export have rules for.
"""

import copy

from torch import fx, nn
from torch.fx import GraphModule, Node

from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import InputShape
from ptqflow.models.attention import write_attention
from ptqflow.models.constants import bake, fold_constants
from ptqflow.models.in_place import work_out_of_place
from ptqflow.models.layer_modules import make_modules, name_first_arguments, separate_calls
from ptqflow.models.nodes import copy_sharing_tensors, function_name
from ptqflow.models.plain_options import average_whole_windows, normalize_explicitly, pad_explicitly, write_for_onnx
from ptqflow.models.shaped_tracer import SHAPE
from ptqflow.models.tracing import trace_user_code

_DROPOUTS = (nn.Identity, nn.modules.dropout._DropoutNd)


def canonicalize(model: nn.Module, input_shape: InputShape) -> GraphModule:
    """Return the canonical form of a network, which stays unchanged and shares its tensors with it.

    The logits are the same to the bit, except with `x @ weight`, instance normalization with running statistics, batch
    normalization without, RMSNorm, attention, and average pooling with a count of its own: there to float32 rounding.

    - Parametrizations, `weight_norm`, `spectral_norm` and pruning are baked into the weights.
    - Arguments of `forward` after the first have their defaults.
    - Sizes are numbers, except for the number of images.
    - What depends on parameters and buffers alone is a buffer.
    - `F.conv2d`, `F.conv_transpose2d`, `F.linear`, `x @ weight`, `F.batch_norm`, `F.layer_norm` and `F.group_norm` with
      such weights are modules, and so are `F.avg_pool2d` and subclasses of torch's layers. Padding is explicit, in
      numbers and of zeros.
    - `AvgPool2d` averages over whole windows; what follows from `ceil_mode` and `divisor_override` is a multiplication.
    - Batch normalization without running statistics is a function of the batch.
    - `nn.MultiheadAttention` is linear layers, products and a softmax.
    - What ONNX has no operator for is written with what it has: RMSNorm, `Threshold`, `ChannelShuffle`, `x.mT`.
    - A module whose INT8 form has a range of its own is called once: a copy, with a number appended to its path, stands
      for each further call.
    - Nothing works in place; `Dropout` and `Identity` are gone.

    Steps keep the paths of their modules, in `node.meta["nn_module_stack"]` too. A function that becomes a module has
    the path of the module that called it where it is all that this does, else its name is appended.

    Args:
        model: the user's; is set to evaluation mode.
        input_shape: channels, height and width of an image.

    Raises:
        ModelError: the network cannot be copied, torch.fx cannot trace it, or the form that it traces does not run; the
            error names the attribute, the line of the user's code or the step.
    """
    baked = _copied(model.eval())
    for module in list(baked.modules()):
        bake(module)
    write_attention(baked)
    network = GraphModule(baked, trace_user_code(baked, input_shape), type(model).__name__)
    name_first_arguments(network)
    for step in _STEPS:  # the first leaves no code that only overwrites its input, which would count as dead
        step(network)
        network.graph.eliminate_dead_code()
        network.recompile()
    network.delete_all_unused_submodules()
    return _renamed(network)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy_sharing_tensors(model)
    except Exception as error:  # what a user's module holds may raise anything
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {_find_uncopyable(model)} ({error}); keep it outside the "
            "module, such as in a variable of the file"
        ) from None


def _find_uncopyable(model: nn.Module) -> str:
    """Return the attribute of a module that cannot be copied, with its type."""
    of_every_module = vars(nn.Module()).keys()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            try:
                _ = name in of_every_module or copy.deepcopy(value)
            except Exception:  # as above
                return f"{path}.{name}".strip(".") + f", of type {type(value).__name__}"
    return "what it holds"


def _drop_dropouts(network: GraphModule) -> None:
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


def _renamed(network: GraphModule) -> GraphModule:
    """Name the steps as if the network had been written so, in a graph of their own."""
    graph = fx.Graph()
    copies: dict[Node, Node] = {}
    for node in network.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        name = node.name if node.op == "placeholder" else None
        copies[node] = graph.create_node(node.op, node.target, args, kwargs, name)
        copies[node].meta = {key: value for key, value in node.meta.items() if key != SHAPE}
    return GraphModule(network, graph, type(network).__name__)


_STEPS = (
    work_out_of_place,
    _drop_dropouts,
    fold_constants,
    make_modules,
    separate_calls,
    pad_explicitly,
    average_whole_windows,
    normalize_explicitly,
    write_for_onnx,
)
