"""Run an exported model in a process of its own, which may be ended: a stranger's network may never return.

`python -m ptqflow.inference.fresh_run RUNTIME EXPORT OUTPUT [DATASET]` writes the logits of the generated images, or of
the test images of a data set, as an .npy file.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import EngineError, describe_failure
from ptqflow.core.stage import run
from ptqflow.data.dataset import open_dataset
from ptqflow.inference.classifier import batch_size, compute_logits
from ptqflow.runtime.manifest import Manifest, read_manifest
from ptqflow.runtime.reference import IMAGES, generate_images
from ptqflow.runtime.runtimes import Runtime, open_network


def run_fresh(runtime: Runtime, directory: Path, dataset: Path | None, seconds: float) -> NDArray[np.float32]:
    """Return the logits of an exported model in a runtime, float32 (N, classes).

    Args:
        runtime: which.
        directory: of the exported model.
        dataset: written by the stage `fetch`, whose test images are used; None for generated images.
        seconds: after which the process is killed.

    Raises:
        EngineError: the runtime cannot run it, or does not in this time.
    """
    with TemporaryDirectory() as folder:
        output = Path(folder) / "logits.npy"
        arguments = [runtime, directory, output, *([dataset] if dataset else [])]
        command = [sys.executable, "-m", __name__, *map(str, arguments)]
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"{runtime} did not end in {seconds:g} s; --timeout allows more") from None
        if result.returncode:
            raise EngineError(describe_failure(result.returncode, result.stderr).removeprefix("verify: "))
        logits: NDArray[np.float32] = np.load(output, allow_pickle=False)
        return logits


def main(arguments: Sequence[str]) -> None:
    """Load a model in a runtime and write its logits."""
    runtime, directory, output, *dataset = arguments
    manifest = read_manifest(Path(directory))
    network = open_network(Path(directory), manifest, cast(Runtime, runtime))
    batches = _test_images(Path(dataset[0]), manifest) if dataset else [generate_images(IMAGES, manifest.input_shape)]
    np.save(output, np.concatenate([compute_logits(network, manifest, batch) for batch in batches]))


def _test_images(dataset: Path, manifest: Manifest) -> Iterator[NDArray[np.uint8]]:
    test, step = open_dataset(dataset).test, batch_size(manifest)
    for start in range(0, len(test), step):
        yield test.read(slice(start, start + step))


if __name__ == "__main__":
    run("verify", lambda: main(sys.argv[1:]))
