"""Whether the runtimes of this machine compute what an exported model says.

The INT8 graph is also run in float arithmetic, step by step as it is written, which needs no integer kernel and no
instruction of the CPU. What the kernels give may differ from that by their rounding, so by less than quantization
itself changed the network. A sum that overflows, on a CPU without the instructions that kernels count on, changes more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptqflow.errors import EngineError
from ptqflow.inference.classifier import compute_logits
from ptqflow.inference.runtimes import RUNTIMES, find_obstacle, open_network, open_onnxruntime
from ptqflow.manifest import FP32_ONNX, INT8_ONNX, Manifest, check_file

IMAGES = 64
_ENOUGH_DB = 40.0  # 1 % of the logits: more is not asked where quantization cost nearly nothing


@dataclass(frozen=True)
class Check:
    """How far the logits of a runtime are from those in float arithmetic."""

    runtime: str
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

    def as_text(self) -> str:
        """Return one line for a person."""
        return (
            f"{self.runtime}: {'passed' if self.passed else 'FAILED'}, predicts what float arithmetic does for "
            f"{100 * self.agreement:.2f} % of the images, SQNR {self.sqnr_db:.1f} dB (at least "
            f"{self.least_db:.1f} dB is asked)"
        )


def verify(directory: Path, manifest: Manifest) -> Iterator[Check | str]:
    """Run each runtime that is installed on generated images, every one the same on each machine.

    Yields:
        The check of each runtime, or why it was not run.

    Raises:
        ArtifactError: a file is missing or changed.
        EngineError: ONNX Runtime is not installed, or no runtime can run the model here.
    """
    paths = {name: check_file(directory, manifest, name) for name in manifest.files}
    if missing := {INT8_ONNX, FP32_ONNX} - paths.keys():
        raise EngineError(f"{directory} holds no {' and no '.join(sorted(missing))}: there is nothing to compare with")
    if find_spec("onnxruntime") is None:
        raise EngineError("ONNX Runtime, which runs the model in float arithmetic, is missing: pip install onnxruntime")
    images = generate_images(IMAGES, manifest.image_size)
    fp32, expected = (
        compute_logits(open_onnxruntime(paths[name], optimize=False), manifest, images)
        for name in (FP32_ONNX, INT8_ONNX)
    )
    least_db = min(sqnr_db(expected, fp32), _ENOUGH_DB)
    for runtime in RUNTIMES:
        if reason := find_obstacle(runtime, manifest):
            yield f"{runtime}: not run, {reason}"
        else:
            logits = compute_logits(open_network(directory, manifest, runtime), manifest, images)
            agreement = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
            yield Check(runtime, agreement, sqnr_db(logits, expected), least_db)


def generate_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return (count, size, size, 3): random colours in grids of 2x2, 4x4 and so on to every pixel, smoothly scaled."""
    draw = np.random.Generator(np.random.PCG64(0))  # named, for NumPy may change its default
    grids = [min(2**power, size) for power in range(1, max(1, math.ceil(math.log2(size))) + 1)]
    small = (draw.integers(0, 256, (grids[i % len(grids)],) * 2 + (3,), dtype=np.uint8) for i in range(count))
    return np.stack([np.asarray(Image.fromarray(pixels).resize((size, size))) for pixels in small])


def sqnr_db(logits: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the ratio of the reference's power to that of the difference in decibels, infinite where there is none."""
    reference = reference.astype(np.float64)
    noise = np.square(logits - reference).sum()
    return float(10 * np.log10(np.square(reference).sum() / noise)) if noise else math.inf
