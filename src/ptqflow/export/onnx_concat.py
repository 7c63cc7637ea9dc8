"""Concatenations in INT8: each input keeps the scale that it has, the output is rounded where it is computed."""

from collections.abc import Iterator, Mapping

from onnx import GraphProto, NodeProto, helper, numpy_helper

_MOVES_VALUES = {"MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity"}
"""Operators whose output holds values of the input alone, so that rounding before or after them is the same."""


def round_concatenations(graph: GraphProto) -> None:
    """Quantize a concatenation at once where all that read it quantize it with one scale and zero point.

    In torch, concatenations whose inputs differ much in magnitude are FP32, and what follows quantizes them, perhaps
    after max pooling. Runtimes have an INT8 kernel, QLinearConcat, with a scale for each input; they take it where
    QuantizeLinear is next to the concatenation. The values stay the same: quantizing twice is quantizing once.
    """
    readers = find_readers(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Concat" or not dequantized.issuperset(node.input):
            continue
        roundings = list(_roundings(node, readers))
        scales = {tuple(constants[name].item() for name in rounding.input[1:]) for rounding in roundings if rounding}
        if None not in roundings and len(scales) == 1:
            assert roundings[0] is not None
            nodes += _rounded(node, roundings[0])
    del graph.node[:]
    graph.node.extend(nodes)


def find_readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read each tensor, in their order."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _roundings(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> Iterator[NodeProto | None]:
    """Yield what quantizes the output of a node, and None for a reader that computes with its float values."""
    if node.output[0] not in readers:
        yield None  # the output of the network
    for reader in readers.get(node.output[0], []):
        if reader.op_type in _MOVES_VALUES:
            yield from _roundings(reader, readers)
        else:
            yield reader if reader.op_type == "QuantizeLinear" else None


def _rounded(node: NodeProto, rounding: NodeProto) -> list[NodeProto]:
    """Return nodes that quantize the output of a node as `rounding` does, and pass it to the readers of the node."""
    output, name = node.output[0], node.name
    exact, quantized = f"{output}.exact", f"{output}.quantized"
    node.output[0] = exact
    return [
        helper.make_node("QuantizeLinear", [exact, *rounding.input[1:]], [quantized], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [quantized, *rounding.input[1:]], [output], f"{name}.dequantize"),
    ]
