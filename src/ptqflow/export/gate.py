"""The check that exported files are as good as the networks that they were made from; without it there is no export."""

import math
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
from ptqflow.export.agreement import ROUNDING_DB, Agreement, compare, find_fault, find_loss
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

    def require_equal(self, runtime: Runtime, name: str, reference: Tensor, fp32: Tensor) -> FileCheck:
        """Require logits equal to those of the reference, bit for bit.

        Args:
            runtime: that runs the file.
            name: of the file.
            reference: logits of the network that it was made from, float64 (N, classes).
            fp32: logits of the FP32 network, of the same shape.

        Raises:
            ModelError: they are not, or the file does not run.
        """
        logits = self.replay(runtime, name, len(self.labels))
        if not np.array_equal(logits, reference.numpy()):
            image = int((logits != reference.numpy()).any(axis=1).argmax())
            raise ModelError(f"{name} returns other logits than the INT8 model, first for test image {image}")
        return _Comparison.of(logits, reference, fp32, self.labels).describe(runtime, name)

    def require_rounding(self, runtime: Runtime, name: str, fp32: Tensor) -> FileCheck:
        """Require of a file of the FP32 network logits (N, classes) that differ from its own by rounding alone.

        Raises:
            ModelError: they differ by more, or the file does not run.
        """
        logits = self.replay(runtime, name, len(self.labels))
        compared = _Comparison.of(logits, fp32, fp32, self.labels)
        if compared.sqnr_db < ROUNDING_DB:
            raise ModelError(
                f"{name} in {runtime} has logits with an SQNR of {compared.sqnr_db:.1f} dB to torch's, the median of "
                f"the test images; rounding leaves {ROUNDING_DB:g} dB or more"
            )
        return compared.describe(runtime, name)

    def require_fidelity(
        self, runtime: Runtime, name: str, reference: Tensor, fp32: Tensor, margin: float
    ) -> FileCheck:
        """Require that a file of the INT8 network is no worse than that, in logits and predictions against FP32's.

        Args:
            runtime: that runs the file.
            name: of the file.
            reference: logits of torch's INT8 network, float64 (N, classes).
            fp32: logits of the FP32 network, of the same shape.
            margin: `export.margin`.

        Raises:
            ModelError: it is worse, or does not run.
        """
        logits = self.replay(runtime, name, len(self.labels))
        compared = _Comparison.of(logits, reference, fp32, self.labels)
        expected_db = median_sqnr_db(reference, fp32)
        if fault := find_loss(compared.sqnr_db, expected_db) or find_fault(compared.agreement, margin):
            raise ModelError(f"{name} in {runtime} {fault}")
        return compared.describe(runtime, name)


@dataclass(frozen=True)
class _Comparison:
    """The logits of a file beside those of the network that it was made from, and FP32's."""

    bit_exact: bool
    agreement: Agreement
    sqnr_db: float
    top1: float

    @classmethod
    def of(
        cls, logits: NDArray[np.float64], reference: Tensor, fp32: Tensor, labels: NDArray[np.int64]
    ) -> "_Comparison":
        predicted = logits.argmax(axis=1)
        return cls(
            bit_exact=bool(np.array_equal(logits, reference.numpy())),
            agreement=compare(predicted, predictions(reference), predictions(fp32), labels),
            sqnr_db=median_sqnr_db(torch.from_numpy(logits), fp32),
            top1=float((predicted == labels).mean()),
        )

    def describe(self, runtime: Runtime, name: str) -> FileCheck:
        return FileCheck(
            file=name,
            runtime=runtime,
            bit_exact=self.bit_exact,
            agreement=round(self.agreement.share, DIGITS),
            fp32_agreement=round(self.agreement.with_fp32, DIGITS),
            median_sqnr_db=_finite(self.sqnr_db),
            top1=round(self.top1, DIGITS),
            lost=self.agreement.labels.lost,
            gained=self.agreement.labels.gained,
        )


def _finite(decibels: float) -> float | None:
    return round(decibels, 4) if math.isfinite(decibels) else None


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
