"""Description of an exported model as text."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import Figures, UnlabelledFigures
from ptqflow.core.printable import printable
from ptqflow.core.text_table import format_text_table
from ptqflow.runtime.manifest import Manifest, check_file


def find_changed_files(directory: Path, manifest: Manifest) -> dict[str, str]:
    """Return the files that are missing or changed, with a message for each."""
    wrong = {}
    for name in manifest.files:
        try:
            check_file(directory, manifest, name)
        except ArtifactError as error:
            wrong[name] = str(error)
    return wrong


def describe(manifest: Manifest, wrong: Iterable[str]) -> Iterator[str]:
    """Yield lines: architecture, classes, input, figures, files, and a table of the layers.

    Args:
        manifest: of the exported model.
        wrong: names of files that are missing or changed.
    """
    (channels, height, width), wrong, given = manifest.input_shape, set(wrong), manifest.input
    numbers = {"mean": given.mean, "std": given.std}
    texts = {
        "model": f"{manifest.architecture}, stem {manifest.stem}, {len(manifest.classes)} classes",
        "classes": ", ".join(manifest.classes),
        "input": f"{given.name}, {given.dtype} (N, {channels}, {height}, {width}), {given.formula}",
        "pixels": str(manifest.preprocessing),
        **{name: " ".join(f"{value:.6g}" for value in values) for name, values in numbers.items()},
        "output": f"{manifest.output.name}, float32 (N, {len(manifest.classes)})",
        "calibrated": f"on {manifest.calibration.images} images",
        "torch": f"{manifest.torch_version}, engine {manifest.engine}"
        + (", 8-bit activations, which on x86 need VNNI" if manifest.needs.vnni else ""),
        "format": f"{manifest.format_version}, written by ptqflow {manifest.ptqflow_version}",
        **_figures(manifest.metrics),
    }
    yield from _table([[name, text] for name, text in texts.items()])
    yield ""
    files = [
        [name, f"{file.bytes / 1e6:.3f} MB", "CHANGED OR MISSING" if name in wrong else "as exported", file.sha256]
        for name, file in manifest.files.items()
    ]
    yield from _table([["file", "size", "state", "sha256"], *files])
    yield ""
    layers = [
        [
            layer.name,
            layer.operation,
            layer.precision,
            "" if layer.scale is None else f"{layer.scale:.6g}",
            "" if layer.zero_point is None else str(layer.zero_point),
        ]
        for layer in manifest.layers
    ]
    yield from _table([["layer", "operation", "precision", "scale", "zero point"], *layers])


def _table(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table of what a manifest says, which may be anything."""
    return format_text_table([[printable(cell) for cell in row] for row in rows]).split("\n")


def _figures(metrics: Figures) -> dict[str, str]:
    """Return the accuracy on the test images, or what there is without labels."""
    agreement = f"{100 * metrics.agreement:.2f} %"
    if isinstance(metrics, UnlabelledFigures):
        return {"agreement": f"{agreement} of {metrics.images:,} images without labels"}
    top1 = f"FP32 {100 * metrics.fp32.top1:.2f} %, INT8 {100 * metrics.int8.top1:.2f} %"
    return {"top-1": f"{top1}, agreement {agreement}"}
