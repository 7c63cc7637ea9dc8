"""Post-training quantization of image classifiers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from ptqflow.inference.classifier import Classifier
    from ptqflow.runtime.runtimes import Runtime

    __version__: str


def load(directory: "str | PathLike[str]", runtime: "Runtime | None" = None) -> "Classifier":
    """Load an exported INT8 model: `classifier = ptqflow.load("models/export")`.

    `classifier(images)` takes uint8 arrays of shape (N, H, W, C) or (H, W, C), a PIL image, or a list of PIL images and
    (H, W, C) arrays of any sizes; C is the model's number of channels: 1 (grey), 3 (RGB) or 4 (RGBA), to which a PIL
    image of any mode is converted. It returns float32 probabilities of shape (N, classes), whose columns are
    `classifier.classes`; for one image, N is 1. Images are resized and cropped by the model's own
    preprocessing, as in training; arrays are RGB where its channels are BGR. `classifier.runtime` is the name of the
    runtime.

    Args:
        directory: written by the stage `export`; the hash of the file that is loaded is checked first.
        runtime: `openvino`, `onnxruntime` or `torchscript`; None selects the first of `openvino` and `onnxruntime` that
            can run the model here, and warns of one that is installed and fails to load. A TorchScript file is a
            program: select `torchscript` only if you trust its author.

    Raises:
        ptqflow.core.errors.ArtifactError: a file is missing or changed, or of a newer format than this version reads.
        ptqflow.core.errors.EngineError: no runtime, or not the selected one, can run the model here.
        ptqflow.core.errors.DataError: raised by `classifier(images)` for images of another kind, or for none.
    """
    from ptqflow.inference.classifier import load_classifier

    return load_classifier(directory, runtime)


def __getattr__(name: str) -> str:
    """Return `__version__`, which the manifest of exported models knows."""
    if name != "__version__":
        raise AttributeError(f"module 'ptqflow' has no attribute {name!r}")
    from ptqflow.runtime.manifest import VERSION

    return VERSION
