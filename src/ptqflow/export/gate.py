"""The check that exported files predict what the INT8 network of torch predicts; without it there is no export."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptqflow.core.errors import ModelError, describe_failure
from ptqflow.core.figures import DIGITS, FileCheck
from ptqflow.export import replay
from ptqflow.export.agreement import compare, find_fault, find_loss
from ptqflow.export.qdq import StepOutput
from ptqflow.models.accuracy import predictions
from ptqflow.models.fidelity import median_sqnr_db
from ptqflow.runtime.runtimes import Runtime

_STEPS, _SHARE = 2, 0.01
"""A layer diverges if more than this share of its values is more than so many quantization steps away."""
EXAMPLES = 32
"""Images on which layers are compared."""


@dataclass(frozen=True)
class Gate:
    """The test images on which exported files are compared, and how the files are run."""

    directory: Path
    """The exported files and their manifest."""
    dataset: Path
    labels: NDArray[np.int64]
    """(N,) of the test images."""
    batch_size: int

    def replay(self, runtime: Runtime, name: str, count: int, *options: str) -> Any:
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
                reason = describe_failure(result.returncode, result.stderr)
                raise ModelError(f"{name} does not run in {runtime}: {reason}")
            loaded = np.load(output, allow_pickle=False)
            return dict(loaded) if options else loaded

    def require_equal(self, runtime: Runtime, name: str, reference: Tensor) -> FileCheck:
        """Require logits equal to those of the reference, float64 (N, classes), bit for bit.

        Raises:
            ModelError: they are not, or the file does not run.
        """
        logits = self.replay(runtime, name, len(self.labels))
        if not np.array_equal(logits, reference.numpy()):
            image = int((logits != reference.numpy()).any(axis=1).argmax())
            raise ModelError(f"{name} returns other logits than the INT8 model, first for test image {image}")
        return self._describe(runtime, name, logits, reference)

    def require_agreement(
        self, runtime: Runtime, name: str, reference: Tensor, min_agreement: float, fp32: Tensor | None = None
    ) -> FileCheck:
        """Require predictions equivalent to those of the reference, by `find_fault`, and logits as near to FP32's.

        Args:
            runtime: that runs the file.
            name: of the file.
            reference: logits of torch's network, float64 (N, classes).
            min_agreement: `export.min_agreement`.
            fp32: logits of the FP32 network, of the same shape; None for a file of that network.

        Raises:
            ModelError: they are not.
        """
        logits = self.replay(runtime, name, len(self.labels))
        if fp32 is not None:
            expected_db, found_db = (median_sqnr_db(each, fp32) for each in (reference, torch.from_numpy(logits)))
            if loss := find_loss(found_db, expected_db):
                raise ModelError(f"{name} in {runtime} {loss}")
        agreement = compare(logits.argmax(axis=1), predictions(reference), self.labels)
        if fault := find_fault(agreement, runtime, min_agreement):
            raise ModelError(f"{name} in {runtime} {fault}")
        return self._describe(runtime, name, logits, reference)

    def _describe(self, runtime: Runtime, name: str, logits: NDArray[np.float64], reference: Tensor) -> FileCheck:
        predicted = logits.argmax(axis=1)
        agreement = compare(predicted, predictions(reference), self.labels)
        return FileCheck(
            file=name,
            runtime=runtime,
            bit_exact=bool(np.array_equal(logits, reference.numpy())),
            agreement=round(agreement.share, DIGITS),
            top1=round(float((predicted == self.labels).mean()), DIGITS),
            lost=agreement.lost,
            gained=agreement.gained,
        )


def first_divergence(expected: Mapping[str, StepOutput], found: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Return the first step of which more than 1 % of the values are more than two quantization steps away.

    Args:
        expected: outputs of torch's steps, in their order.
        found: outputs of the exported steps, by the same names.
    """
    for name, output in expected.items():
        if name in found:
            away = np.abs(found[name] - output.values) > (_STEPS + 0.5) * output.rounding.scale
            if away.mean() > _SHARE:
                return name
    return None
