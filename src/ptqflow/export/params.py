"""The `export` section of params.yaml."""

from typing import Annotated

from pydantic import Field

from ptqflow.core.params import Params


class ExportParams(Params):
    """Which files are written, and how they are checked."""

    onnx: bool
    """False: only TorchScript, for a network with an operation that ONNX does not know."""
    min_agreement: Annotated[float, Field(gt=0, le=1)]
    """Share of the test images for which a file must predict what torch does."""
