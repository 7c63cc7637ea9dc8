"""Constant folding of an ONNX graph with onnxscript's optimizer and the passes of onnx_ir.

torch's exporter computes shapes in the graph, also those that do not depend on the number of images. The optimizer
folds a size once shape inference finds it, but not if a number or a range takes it from a shape.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule

_ANY_SIZE = 2**31
"""Of a tensor in bytes: an ONNX file has no larger one."""


def fold(model: ModelProto) -> ModelProto:
    """Return a model in which everything that is constant is an initializer, without what is unused.

    DequantizeLinear of weights is left, so that they are int8 in the file.
    """
    folded = ir.from_proto(model)
    steps = -1
    while steps != len(folded.graph):  # what is folded makes more shapes known
        steps = len(folded.graph)
        common.ShapeInferencePass(check_type=False, strict_mode=False)(folded)
        _fold_sizes(folded.graph)
        fold_constants_ir(
            folded, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE, should_fold=_folds_in_any_case
        )
        RewritePass([materialize_reshape_shape_rule])(folded)
        common.RemoveUnusedNodesPass()(folded)
    for finish in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        finish(folded)
    proto: ModelProto = ir.to_proto(folded)
    del proto.graph.value_info[:]
    return proto


def _folds_in_any_case(node: ir.Node) -> bool | None:
    """Return True for ConstantOfShape, which the optimizer leaves, and with it what is computed from it; else None."""
    return True if node.op_type == "ConstantOfShape" else None


def _fold_sizes(graph: ir.Graph) -> None:
    """Replace the sizes that Gather and Slice take from a shape by constants where all of them are known."""
    for node in graph:
        if node.op_type not in ("Gather", "Slice") or node.inputs[0] is None:
            continue
        shape, arguments = node.inputs[0].producer(), [value for value in node.inputs[1:] if value is not None]
        tensors = [ir.convenience.get_const_tensor(value) for value in arguments]
        constants = [tensor.numpy() for tensor in tensors if tensor is not None]
        if shape is None or shape.op_type != "Shape" or len(constants) < len(arguments):
            continue
        taken = _take(node.op_type, _shape(shape), constants)
        if taken is not None and (taken >= 0).all():
            value = ir.Value(name=f"{node.outputs[0].name}_known", const_value=ir.tensor(taken))
            graph.register_initializer(value)
            node.outputs[0].replace_all_uses_with(value)


def _shape(node: ir.Node) -> ir.Shape | None:
    return node.inputs[0].shape if node.inputs[0] is not None else None


def _take(operation: str, shape: ir.Shape | None, arguments: list[NDArray[Any]]) -> NDArray[np.int64] | None:
    """Return what Gather or Slice takes from a shape, -1 for an unknown size; None if the rank is unknown."""
    if shape is None:
        return None
    sizes = np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
    if operation == "Gather":
        return np.array(sizes[arguments[0]])
    start, end, *_ = (int(argument[0]) for argument in arguments)
    return sizes[start : end : int(arguments[3][0]) if len(arguments) == 4 else 1]
