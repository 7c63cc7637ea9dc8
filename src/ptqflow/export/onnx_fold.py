"""An ONNX graph without anything that could have been computed before it was written."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]

_KEPT = {"DequantizeLinear"}  # of weights: folding it would make FP32 copies of them


def clean(model: ModelProto) -> None:
    """Fold what is constant, also sizes that do not depend on the number of images, and drop what is left unused."""
    graph = model.graph
    _constants_to_initializers(graph)
    steps = -1
    while steps != len(graph.node):  # what is folded makes more shapes known
        steps = len(graph.node)
        inferred = onnx.shape_inference.infer_shapes(model)
        _fold_sizes(graph, {value.name: value for value in (*inferred.graph.value_info, *graph.input)})
        _fold_constants(model)
        _free_batch_of_reshapes(graph)
        _drop_unused(graph)
        del graph.value_info[:]
    _bypass_identities(graph)
    _drop_unused(graph)
    _share_initializers(graph)


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _initialize(graph: GraphProto, name: str, value: NDArray[np.generic]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))


def _constants_to_initializers(graph: GraphProto) -> None:
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            _initialize(graph, node.output[0], numpy_helper.to_array(node.attribute[0].t))
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _fold_sizes(graph: GraphProto, values: dict[str, onnx.ValueInfoProto]) -> None:
    """Make a constant of each size that is taken from a shape and is known."""
    shapes = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Shape" and not node.attribute}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        known = node.input[0] in shapes if node.op_type in ("Gather", "Slice") else False
        if known and all(name in constants for name in node.input[1:]):
            taken = _take(node, _sizes(values.get(shapes[node.input[0]])), [constants[name] for name in node.input[1:]])
            if taken is not None and (taken >= 0).all():
                _initialize(graph, node.output[0], taken)
                continue
        kept.append(node)
    _replace_nodes(graph, kept)


def _sizes(value: onnx.ValueInfoProto | None) -> Array | None:
    """Return the shape of a tensor, -1 for what is not known; None if its rank is not."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return np.array([size.dim_value or -1 for size in value.type.tensor_type.shape.dim], np.int64)


def _take(node: NodeProto, sizes: Array | None, arguments: list[Array]) -> Array | None:
    """Return what Gather or Slice takes from a shape."""
    if sizes is None:
        return None
    if node.op_type == "Gather":
        return np.array(sizes[arguments[0]])
    start, end, *_ = (int(argument.reshape(-1)[0]) for argument in arguments)
    step = int(arguments[3][0]) if len(arguments) == 4 else 1
    return sizes[start:end:step]


def _fold_constants(model: ModelProto) -> None:
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type in _KEPT or any(name not in constants for name in node.input if name):
            kept.append(node)
            continue
        single = helper.make_graph(
            [node],
            "constant",
            [helper.make_tensor_value_info(name, _type(constants[name]), None) for name in node.input if name],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output],
        )
        evaluator = ReferenceEvaluator(helper.make_model(single, opset_imports=model.opset_import))
        results = evaluator.run(None, {name: constants[name] for name in node.input if name})
        for name, result in zip(node.output, results, strict=True):
            constants[name] = np.asarray(result)
            _initialize(graph, name, constants[name])
    _replace_nodes(graph, kept)


def _type(value: NDArray[np.generic]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def _free_batch_of_reshapes(graph: GraphProto) -> None:
    """Let Reshape find the number of images itself where that is all it is told at run time."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        maker = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        if maker is None or maker.op_type != "Concat":
            continue
        given = [constants.get(name) for name in maker.input]
        unknown = [maker.input[i] for i, part in enumerate(given) if part is None]
        known = np.concatenate([part for part in given if part is not None] or [np.zeros(1, np.int64)])
        if len(unknown) == 1 and _is_one_size(makers[unknown[0]]) and (known > 0).all():
            name = f"{node.output[0]}_shape"
            shape = [np.array([-1], np.int64) if part is None else part for part in given]
            _initialize(graph, name, np.concatenate(shape))
            node.input[1] = name


def _is_one_size(maker: NodeProto) -> bool:
    return maker.op_type == "Unsqueeze"


def _bypass_identities(graph: GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _drop_unused(graph: GraphProto) -> None:
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    _replace_nodes(graph, reversed(kept))
    _keep_initializers(graph, (tensor for tensor in graph.initializer if tensor.name in used))


def _keep_initializers(graph: GraphProto, tensors: Iterator[TensorProto]) -> None:
    kept = list(tensors)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _share_initializers(graph: GraphProto) -> None:
    """Keep one of equal tensors, but for single numbers, which are read more easily by the names of their own."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        if tensor.dims:
            renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    _keep_initializers(
        graph, (tensor for tensor in graph.initializer if renamed.get(tensor.name, tensor.name) == tensor.name)
    )
