"""Whether the runtimes of this machine compute what an exported model says.

Without the data set, the INT8 graph is also run in float arithmetic, step by step as it is written, which needs no
integer kernel and no instruction of the CPU. What the kernels give may differ from that by their rounding, so by less
than quantization itself changed the network. A sum that overflows, on a CPU without the instructions that kernels count
on, changes more. With the data set, the gate of the stage `export` is run again.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.core.errors import ArtifactError, EngineError, ModelError
from ptqflow.inference.classifier import compute_logits
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, Manifest, check_file
from ptqflow.runtime.runtimes import RUNTIMES, Runtime, find_obstacle, open_file, open_network

IMAGES = 64
_ENOUGH_DB = 40.0  # 1 % of the logits: more is not asked where quantization cost nearly nothing
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Finding:
    """What was found out about one runtime."""

    runtime: Runtime
    passed: bool | None
    """None where it was not run."""
    text: str

    def __str__(self) -> str:
        word = "not run" if self.passed is None else "passed" if self.passed else "FAILED"
        return f"{self.runtime}: {word}: {self.text}"


@dataclass(frozen=True)
class Check:
    """How far the logits of a runtime are from those in float arithmetic."""

    agreement: float
    """Share of the images for which it predicts the same class."""
    sqnr_db: float
    """Power of the logits over that of the difference; infinite where there is none."""
    least_db: float
    """What is asked: the same of float arithmetic against FP32, which is what quantization costs, but 40 at most."""

    @property
    def passed(self) -> bool:
        """Whether the kernels change less than quantization did."""
        return self.sqnr_db >= self.least_db

    def __str__(self) -> str:
        return (
            f"predicts what float arithmetic does for {self.agreement:.2%} of {IMAGES} generated images, SQNR "
            f"{self.sqnr_db:.1f} dB (at least {self.least_db:.1f} dB is asked)"
        )


def verify(directory: Path, manifest: Manifest, dataset: Path | None, min_agreement: float) -> Iterator[Finding]:
    """Run an exported model in each runtime that is installed.

    Args:
        directory: where it lies.
        manifest: what it says.
        dataset: what the stage `fetch` wrote, whose test images the gate runs again; None takes generated images.
        min_agreement: with a data set, as `export.min_agreement`.

    Yields:
        What was found out about each runtime.

    Raises:
        ArtifactError: a file is missing or changed, or the data set is not the one of the manifest.
        EngineError: what the runtimes are compared with cannot run here.
    """
    for name in manifest.files:
        check_file(directory, manifest, name)
    if dataset is None:
        find = compare_on_generated_images(directory, manifest)
    else:
        find = _compare_on_test_images(directory, manifest, dataset, min_agreement)
    for runtime in RUNTIMES:
        if reason := find_obstacle(runtime, manifest):
            yield Finding(runtime, None, reason)
            continue
        try:
            finding = find(runtime)
        except EngineError as error:
            finding = Finding(runtime, False, str(error))
        yield finding


def compare_on_generated_images(directory: Path, manifest: Manifest) -> Callable[[Runtime], Finding]:
    """Run the graphs in float arithmetic; return what compares a runtime with them, on the same images everywhere."""
    if missing := {INT8_ONNX, FP32_ONNX} - manifest.files.keys():
        raise EngineError(f"{directory} holds no {' and no '.join(sorted(missing))}: there is nothing to compare with")
    if find_spec("onnxruntime") is None:
        raise EngineError("ONNX Runtime, which runs the model in float arithmetic, is missing: pip install onnxruntime")
    images = generate_images(IMAGES, manifest.image_size)
    files = (directory / name for name in (FP32_ONNX, INT8_ONNX))
    networks = (open_file(file, "onnxruntime", manifest.engine, optimize=False) for file in files)
    fp32, expected = (compute_logits(network, manifest, images) for network in networks)
    least_db = min(sqnr_db(expected, fp32), _ENOUGH_DB)

    def find(runtime: Runtime) -> Finding:
        logits = compute_logits(open_network(directory, manifest, runtime), manifest, images)
        agreement = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
        check = Check(agreement, sqnr_db(logits, expected), least_db)
        return Finding(runtime, check.passed, str(check))

    return find


def _compare_on_test_images(
    directory: Path, manifest: Manifest, dataset: Path, min_agreement: float
) -> Callable[[Runtime], Finding]:
    """Run the TorchScript file, which `export` found equal to the INT8 model bit for bit, on the test images."""
    from ptqflow.data.dataset import open_dataset

    opened = open_dataset(dataset)
    if opened.card.sha256.get("test") != manifest.dataset_sha256.get("test"):
        raise ArtifactError(f"{dataset}: its test images are not those that {directory} was exported with")
    if reason := find_obstacle("torchscript", manifest):
        raise EngineError(f"the gate compares with torch, which cannot run the model here: {reason}; leave --data out")
    import torch

    from ptqflow.export.gate import Gate

    labels = opened.test.labels
    gate = Gate(directory, dataset, labels, _BATCH_SIZE)
    reference = torch.from_numpy(gate.replay("torchscript", INT8_TORCHSCRIPT, len(labels))).double()
    top1 = float((reference.argmax(dim=1).numpy() == labels).mean())

    def find(runtime: Runtime) -> Finding:
        if runtime == "torchscript":
            exported = manifest.metrics["int8"]["top1"]
            text = f"top-1 {top1:.2%} on {len(labels)} test images, {exported:.2%} where it was exported"
            return Finding(runtime, True, text)
        try:
            found = gate.require_agreement(runtime, INT8_ONNX, reference, min_agreement)
        except ModelError as error:
            return Finding(runtime, False, str(error))
        text = f"predicts what torch does for {found['agreement']:.2%} of {len(labels)} test images, top-1 "
        return Finding(runtime, True, f"{text}{found['top1']:.2%}, p = {found['p']:.2g}")

    return find


def generate_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return (count, size, size, 3): random colours in grids of 2x2, 4x4 and so on to every pixel, smoothly scaled."""
    draw = np.random.Generator(np.random.PCG64(0))  # named, for NumPy may change its default
    grids = [min(2**power, size) for power in range(1, math.ceil(math.log2(size)) + 1)]
    shapes = [(grid, grid, 3) for grid in grids]
    small = (draw.integers(0, 256, shapes[i % len(shapes)], dtype=np.uint8) for i in range(count))
    return np.stack([np.asarray(Image.fromarray(pixels).resize((size, size))) for pixels in small])


def sqnr_db(logits: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the ratio of the reference's power to that of the difference in decibels, infinite where there is none."""
    reference = reference.astype(np.float64)
    noise = np.square(logits - reference).sum()
    return float(10 * np.log10(np.square(reference).sum() / noise)) if noise else math.inf
