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
from numpy.typing import NDArray

from ptqflow.core.errors import ModelError, describe_failure
from ptqflow.core.figures import DIGITS, FileCheck
from ptqflow.core.progress import progress_bar
from ptqflow.data.accuracy import predictions
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.export import replay
from ptqflow.export.agreement import ROUNDING_DB, Agreement, compare, find_fault, find_loss
from ptqflow.export.qdq import StepOutput
from ptqflow.runtime.runtimes import Runtime

_STEPS, _SHARE = 2, 0.01
"""A layer diverges if more than this share of its values is more than so many quantization steps away."""
EXAMPLES = 32
"""Images on which layers are compared."""
_EQUAL_IMAGES = 1024
"""Test images, at most, on which a file is compared that must compute what its network does."""
_LogitArray = NDArray[np.float32]


@dataclass(frozen=True)
class Gate:
    """The test images on which exported files are compared, and how the files are run."""

    directory: Path
    """The exported files and their manifest."""
    dataset: Path
    labels: NDArray[np.int64] | None
    """(N,) of the test images; None where there are none."""
    batch_size: int

    def replay(self, runtime: Runtime, name: str, count: int, *options: str) -> Any:
        """Run a file in a fresh process on the first `count` test images.

        Returns:
            Logits (count, classes), or arrays by name with the option `steps`.

        Raises:
            ModelError: the process failed.
        """
        with TemporaryDirectory() as folder, progress_bar(count, f"{name} in {runtime}", "image") as bar:
            output = Path(folder) / ("steps.npz" if options else "logits.npy")
            arguments = [runtime, self.directory, name, self.dataset, count, self.batch_size, output, *options]
            command = [sys.executable, "-m", replay.__name__, *map(str, arguments)]
            errors = Path(folder) / "stderr"
            with (
                errors.open("w") as stderr,
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process,
            ):
                assert process.stdout
                for line in filter(bytes.isdigit, map(bytes.strip, process.stdout)):
                    bar.update(int(line))
            if process.returncode:
                reason = describe_failure(process.returncode, errors.read_text(errors="replace"))
                raise ModelError(f"{name} does not run in {runtime}: {reason}")
            loaded = np.load(output, allow_pickle=False)
            return dict(loaded) if options else loaded

    def require_equal(self, runtime: Runtime, name: str, reference: _LogitArray, fp32: _LogitArray) -> FileCheck:
        """Require logits equal to those of the reference, bit for bit, on the first test images.

        Args:
            runtime: that runs the file.
            name: of the file.
            reference: logits of the network that it was made from, (N, classes).
            fp32: logits of the FP32 network, of the same shape.

        Raises:
            ModelError: they are not, or the file does not run.
        """
        logits = self.replay(runtime, name, min(_EQUAL_IMAGES, len(reference)))
        different = (logits != reference[: len(logits)]).any(axis=1)
        if different.any():
            image = int(different.argmax())
            raise ModelError(f"{name} returns other logits than the INT8 model, first for test image {image}")
        return self._compare(logits, reference, fp32).describe(runtime, name)

    def require_rounding(self, runtime: Runtime, name: str, fp32: _LogitArray) -> FileCheck:
        """Require of a file of the FP32 network that its logits for the first test images differ by rounding alone.

        Args:
            runtime: that runs the file.
            name: of the file.
            fp32: logits of the network, (N, classes).

        Raises:
            ModelError: they differ by more, or the file does not run.
        """
        logits = self.replay(runtime, name, min(_EQUAL_IMAGES, len(fp32)))
        compared = self._compare(logits, fp32, fp32)
        if compared.sqnr_db < ROUNDING_DB:
            raise ModelError(
                f"{name} in {runtime} has logits with an SQNR of {compared.sqnr_db:.1f} dB to torch's, the median of "
                f"{len(logits)} test images; rounding leaves {ROUNDING_DB:g} dB or more"
            )
        return compared.describe(runtime, name)

    def require_fidelity(
        self, runtime: Runtime, name: str, reference: _LogitArray, fp32: _LogitArray, margin: float
    ) -> FileCheck:
        """Require that a file of the INT8 network is no worse than that, in logits and predictions against FP32's.

        Args:
            runtime: that runs the file, on all test images.
            name: of the file.
            reference: logits of torch's INT8 network, (N, classes).
            fp32: logits of the FP32 network, of the same shape.
            margin: `export.margin`.

        Raises:
            ModelError: it is worse, or does not run.
        """
        compared = self._compare(self.replay(runtime, name, len(reference)), reference, fp32)
        expected_db = median_sqnr_db(reference, fp32)
        if fault := find_loss(compared.sqnr_db, expected_db) or find_fault(compared.agreement, margin):
            raise ModelError(f"{name} in {runtime} {fault}")
        return compared.describe(runtime, name)

    def _compare(self, logits: _LogitArray, reference: _LogitArray, fp32: _LogitArray) -> "_Comparison":
        count = len(logits)
        labels = None if self.labels is None else self.labels[:count]
        return _Comparison.of(logits, reference[:count], fp32[:count], labels)


@dataclass(frozen=True)
class _Comparison:
    """The logits of a file beside those of the network that it was made from, and FP32's."""

    bit_exact: bool
    agreement: Agreement
    sqnr_db: float
    top1: float | None

    @classmethod
    def of(
        cls, logits: _LogitArray, reference: _LogitArray, fp32: _LogitArray, labels: NDArray[np.int64] | None
    ) -> "_Comparison":
        predicted = predictions(logits)
        return cls(
            bit_exact=bool(np.array_equal(logits, reference)),
            agreement=compare(predicted, predictions(reference), predictions(fp32), labels),
            sqnr_db=median_sqnr_db(logits, fp32),
            top1=None if labels is None else round(float((predicted == labels).mean()), DIGITS),
        )

    def describe(self, runtime: Runtime, name: str) -> FileCheck:
        labels = self.agreement.labels
        return FileCheck(
            file=name,
            runtime=runtime,
            images=self.agreement.images,
            bit_exact=self.bit_exact,
            agreement=round(self.agreement.share, DIGITS),
            fp32_agreement=round(self.agreement.with_fp32, DIGITS),
            median_sqnr_db=_finite(self.sqnr_db),
            top1=self.top1,
            lost=None if labels is None else labels.lost,
            gained=None if labels is None else labels.gained,
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
