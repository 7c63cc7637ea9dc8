"""The `export` section of params.yaml."""

from typing import Annotated

from pydantic import Field

from ptqflow.core.params import Params


class ExportParams(Params):
    """Which files are written, and how they are checked."""

    onnx: bool
    """Whether to write ONNX files; false: TorchScript alone, for a network with an operation that ONNX does not have.
    """
    openvino: bool
    """Whether `int8.onnx` is checked in OpenVINO, too, which must then be installed."""
    margin: Annotated[float, Field(ge=0, lt=1)]
    """Share of the test images by which a file may be worse than torch's INT8 network, in agreement with FP32 or in
    top-1."""
