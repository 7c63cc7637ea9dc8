"""Post-training quantization of image classifiers."""

from typing import TYPE_CHECKING

from ptqflow.runtime.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from typing import Any

    from torch import nn

    from ptqflow.inference.classifier import Classifier
    from ptqflow.quantization.images import Images
    from ptqflow.quantization.result import Quantization
    from ptqflow.runtime.runtimes import Runtime

__version__ = VERSION


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


def quantize(
    model: "nn.Module | str",
    images: "Images",
    *,
    weights: "str | PathLike[str] | None" = None,
    classes: "Sequence[str] | None" = None,
    settings: "Mapping[str, Any] | None" = None,
    report: "Callable[[str], None]" = lambda line: None,
) -> "Quantization":
    """Quantize a classifier to INT8 on images without labels, export it and check each file, without a repository.

    `result = ptqflow.quantize(model, images)` does what the stages of the pipeline do, with the same defaults. Half of
    the images are compared, a tenth of the others serve `result.report()`, the rest calibrates, 320 at most.

    Args:
        model: a trained network, which stays unchanged, that maps float32 (N, C, H, W) to logits (N, classes), on any
            device; or with `weights` the name of one, as `model.name`: one of torchvision, `timm:NAME`, or
            `module:function`.
        images: a folder or an archive with image files; uint8 arrays (N, H, W, C); a list of PIL images or of arrays
            (H, W, C); or a DataLoader of uint8 or normalized float tensors (N, C, H, W), whose labels are ignored and
            of which the first 2,000 images are taken.
        weights: of a network by its name: a file, or the name of published weights.
        classes: names of the outputs; None: those that are published with the weights, else numbers.
        settings: keys of params.yaml in the sections data, model, calib, convert and export, such as
            `{"model.mean": [0.485, 0.456, 0.406], "model.std": [0.229, 0.224, 0.225], "data.image_size": 224}`. Without
            `model.mean` and `model.std`, those that a network of timm or published weights bring are taken, else pixels
            are scaled to 0..1, with a warning; without `data.image_size`, the size of the images.
        report: called with a line for each step.

    Returns:
        `result.agreement` and `result.sqnr_db` compare the exported file with FP32; `result.verdict` is a sentence;
        `result.report(path)` makes a page, `result.save(directory)` writes the files, which `ptqflow.load` runs.

    Raises:
        ptqflow.core.errors.ParamsError: a setting is unknown, out of range or contradicts another.
        ptqflow.core.errors.DataError: the images are of another kind, unreadable or fewer than 4.
        ptqflow.core.errors.ModelError: the network cannot be traced, its weights do not fit, INT8 is not as near to
            FP32 as `convert.min_sqnr_db` asks for, or an exported file fails the gate.
        ptqflow.core.errors.EngineError: this machine lacks the engine.
    """
    from ptqflow.quantization.quantize import quantize as run

    return run(model, images, weights, classes, settings or {}, report)
