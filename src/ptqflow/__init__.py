"""Post-training quantization of image classifiers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from ptqflow.inference.classifier import Classifier
    from ptqflow.runtime.runtimes import Runtime


def load(directory: "str | PathLike[str]", runtime: "Runtime | None" = None) -> "Classifier":
    """Load an exported INT8 model: `classifier = ptqflow.load("models/export")`.

    `classifier(images)` takes uint8 RGB arrays of shape (N, H, W, 3) or (H, W, 3), a PIL image, or a list of PIL images
    and (H, W, 3) arrays of any sizes. It returns float32 probabilities of shape (N, classes), whose columns are
    `classifier.classes`; one image is N = 1. Images of another size than the model's are cropped in the middle to a
    square and scaled, as in training. `classifier.runtime` names what runs the model.

    Args:
        directory: what the stage `export` wrote; the hash of the file that is loaded is checked first.
        runtime: `openvino`, `onnxruntime` or `torchscript`; None takes the first of them that can run the model here,
            and warns of one that is installed and fails to load.

    Raises:
        ptqflow.core.errors.ArtifactError: a file is missing or changed, or of a newer format than this version reads.
        ptqflow.core.errors.EngineError: no runtime, or not the one asked for, can run the model here.
        ptqflow.core.errors.DataError: raised by `classifier(images)` for what is none of the above, or for 0 images.
    """
    from ptqflow.inference.classifier import load_classifier

    return load_classifier(directory, runtime)
