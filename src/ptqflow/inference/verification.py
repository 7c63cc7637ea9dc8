"""Whether the runtimes of this machine compute what torch computed when the model was exported.

The export holds a reference: the logits of torch's INT8 and FP32 networks for generated images, and the classes that
both predicted for the test images. A runtime may round otherwise than torch and be no further from FP32. A sum that
overflows, on a CPU without the instructions that kernels require, is far from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import ArtifactError, EngineError
from ptqflow.data.dataset import Split, open_dataset
from ptqflow.data.fidelity import sqnr_db
from ptqflow.export.agreement import SQNR_MARGIN_DB, compare, find_fault, find_loss
from ptqflow.inference.fresh_run import run_fresh
from ptqflow.runtime.manifest import Manifest, check_file
from ptqflow.runtime.reference import Reference, read_reference
from ptqflow.runtime.runtimes import RUNTIMES, Runtime, find_obstacle


@dataclass(frozen=True)
class Finding:
    """The result for one runtime."""

    runtime: Runtime
    passed: bool | None
    """None if it was not run."""
    text: str

    def __str__(self) -> str:
        word = "not run" if self.passed is None else "passed" if self.passed else "FAILED"
        return f"{self.runtime}: {word}: {self.text}"


def verify(directory: Path, manifest: Manifest, dataset: Path | None, seconds: float) -> Iterator[Finding]:
    """Run an exported model in each runtime that is installed and compare it with the reference.

    Args:
        directory: of the exported model.
        manifest: of the same.
        dataset: written by the stage `fetch`, whose test images are used; None for generated images.
        seconds: that each runtime has, in a process of its own.

    Yields:
        The finding for each runtime.

    Raises:
        ArtifactError: a file is missing or changed, or the data set is not the one in the manifest.
    """
    for name in manifest.files:
        check_file(directory, manifest, name)
    reference = read_reference(directory, manifest)
    test = None if dataset is None else _open_test(dataset, directory, manifest)
    if test is not None and len(reference.predicted) != len(test):
        raise ArtifactError(f"{directory} has predictions for {len(reference.predicted)} test images, not {len(test)}")
    for runtime in RUNTIMES:
        if reason := find_obstacle(runtime, manifest):
            yield Finding(runtime, None, reason)
            continue
        try:
            logits = run_fresh(runtime, directory, dataset, seconds)
            if test is None:
                yield compare_logits(runtime, logits, reference)
            else:
                yield compare_predictions(runtime, logits, reference, test.labels, manifest.margin)
        except EngineError as error:
            yield Finding(runtime, False, str(error))


def compare_logits(runtime: Runtime, logits: NDArray[np.float32], reference: Reference) -> Finding:
    """Compare the logits of a runtime for generated images with those of torch.

    It passes if they are as near to FP32's as those of torch's INT8 network, within the margin of the export.

    Args:
        runtime: which.
        logits: float32 (IMAGES, classes).
        reference: of the exported model.
    """
    torch_db, found_db = sqnr_db(reference.int8, reference.fp32), sqnr_db(logits, reference.fp32)
    share = float((logits.argmax(axis=1) == reference.int8.argmax(axis=1)).mean())
    text = (
        f"predicts what torch predicted for {share:.2%} of {len(logits)} generated images, SQNR to FP32 {found_db:.1f} "
        f"dB (torch's {torch_db:.1f} dB, {SQNR_MARGIN_DB:g} dB less are accepted)"
    )
    return Finding(runtime, find_loss(found_db, torch_db) is None, text)


def compare_predictions(
    runtime: Runtime,
    logits: NDArray[np.float32],
    reference: Reference,
    labels: NDArray[np.int64] | None,
    margin: float,
) -> Finding:
    """Compare the predictions of a runtime for the test images with those of torch, by the gate of the export.

    Args:
        runtime: which.
        logits: float32 (N, classes).
        reference: of the exported model.
        labels: (N,) of the images; None if there are none.
        margin: of the manifest.
    """
    predicted = logits.argmax(axis=1)
    agreement = compare(predicted, reference.predicted, reference.fp32_predicted, labels)
    if fault := find_fault(agreement, margin):
        return Finding(runtime, False, fault)
    top1 = "" if labels is None else f", top-1 {float((predicted == labels).mean()):.2%}"
    text = (
        f"predicts what torch's INT8 network did for {agreement.share:.2%} of {len(predicted)} test images, and what "
        f"FP32 did for {agreement.with_fp32:.2%}{top1}"
    )
    return Finding(runtime, True, text)


def _open_test(dataset: Path, directory: Path, manifest: Manifest) -> Split:
    opened = open_dataset(dataset)
    if opened.card.sha256.get("test") != manifest.dataset_sha256.get("test"):
        raise ArtifactError(f"{dataset}: its test images are not those with which {directory} was exported")
    return opened.test
