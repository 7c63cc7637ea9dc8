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
    min_agreement: Annotated[float, Field(gt=0, le=1)]
    """Share of the test images for which a file must predict what torch predicts; for OpenVINO, 0.98 at most."""
