"""Exported files must predict what the INT8 model of torch predicts, else there is no export."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.core.errors import ModelError
from ptqflow.evaluate.significance import count_pairs, mcnemar
from ptqflow.evaluate.verdict import ALPHA, format_p
from ptqflow.export import replay
from ptqflow.export.qdq import StepOutput
from ptqflow.models.accuracy import DIGITS, predictions

_STEPS, _SHARE = 2, 0.01
"""A layer diverges where more than this share of its values is more than so many codes away."""
OPENVINO_AGREEMENT = 0.98
"""The most that is asked of OpenVINO, which adds a residual before it rounds, whatever the graph says."""
EXAMPLES = 32
"""Images on which layers are compared."""


@dataclass(frozen=True)
class Gate:
    """What exported files are compared on, and how they are run."""

    directory: Path
    """The exported files and their manifest."""
    dataset: Path
    labels: NDArray[np.int64]
    """(N,) of the test images."""
    batch_size: int

    def replay(self, runtime: str, name: str, count: int, *options: str) -> Any:
        """Run a file in a fresh process on the first `count` test images.

        Returns:
            Logits (count, classes), or arrays by name with the option `steps`.

        Raises:
            ModelError: the process failed.
        """
        with TemporaryDirectory() as folder:
            output = Path(folder) / ("steps.npz" if options else "logits.npy")
            arguments = [runtime, self.directory, name, self.dataset, count, self.batch_size, output, *options]
            command = [sys.executable, "-m", replay.__name__, *map(str, arguments)]
            result = subprocess.run(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False)
            if result.returncode:
                raise ModelError(f"{name} does not run in {runtime}: {_last_line(result.stderr)}")
            loaded = np.load(output, allow_pickle=False)
            return dict(loaded) if options else loaded

    def require_equal(self, runtime: str, name: str, reference: Tensor) -> dict[str, Any]:
        """Require the very logits of the reference, float64 (N, classes)."""
        logits = self.replay(runtime, name, len(self.labels))
        if not np.array_equal(logits, reference.numpy()):
            image = int((logits != reference.numpy()).any(axis=1).argmax())
            raise ModelError(f"{name} gives other logits than the INT8 model, first for test image {image}")
        return {"bit_exact": True}

    def require_agreement(self, runtime: str, name: str, reference: Tensor, share_asked: float) -> dict[str, Any]:
        """Require the predictions of the reference for a share of the images, and no significant change of accuracy.

        One image may differ in any number of images: of 100, it alone would be 1 %.
        """
        if runtime == "openvino":
            share_asked = min(share_asked, OPENVINO_AGREEMENT)
        predicted = self.replay(runtime, name, len(self.labels)).argmax(axis=1)
        expected = predictions(reference)
        different = int((predicted != expected).sum())
        pairs = count_pairs(expected == self.labels, predicted == self.labels)
        p = mcnemar(pairs)
        share = 1 - different / len(expected)
        if different > max(1, (1 - share_asked) * len(expected)) or p < ALPHA:
            raise ModelError(
                f"{name} in {runtime} predicts what torch predicts for {share:.2%} of the test images (asked: "
                f"{share_asked:.2%}); {pairs.only_reference_right} images are lost and "
                f"{pairs.only_candidate_right} gained, {format_p(p)}"
            )
        return {
            "runtime": runtime,
            "agreement": round(share, DIGITS),
            "top1": round(float((predicted == self.labels).mean()), DIGITS),
            "p": round(p, DIGITS),
        }


def first_divergence(expected: Mapping[str, StepOutput], found: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Return the first step whose values are more than two codes away, but for 1 % of them; None if there is none.

    Args:
        expected: what torch's steps give, in their order.
        found: what the exported ones give, by the same names.
    """
    for name, output in expected.items():
        if name in found:
            away = np.abs(found[name] - output.values) > (_STEPS + 0.5) * output.rounding.scale
            if away.mean() > _SHARE:
                return name
    return None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
