"""An ONNX file of a few hundred bytes."""

from pathlib import Path

import miniature
import onnx
from onnx import TensorProto, helper


def write_onnx(path: Path, batch: int | str = "N") -> None:
    """Write a network that means over the pixels, for any batch or for one alone."""
    shape = [batch, 3, miniature.SIZE, miniature.SIZE]
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
