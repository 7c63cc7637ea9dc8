"""Run an exported file on test images in a process of its own, as another project would.

`python -m ptqflow.export.replay RUNTIME EXPORT FILE DATASET IMAGES BATCH OUTPUT [steps]` writes the logits of the first
IMAGES test images as an .npy file, or with `steps` the output of every quantized step as an .npz file. Files are loaded
and images normalized as by `ptqflow predict`; the number of images of each batch is printed when it is done. ONNX files
need no torch.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.stage import run
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import Split, open_dataset
from ptqflow.data.normalization import normalize
from ptqflow.runtime.manifest import INPUT, Manifest, check_file, read_manifest
from ptqflow.runtime.runtimes import Runtime, onnxruntime_session, open_file

if TYPE_CHECKING:
    from ptqflow.runtime.runtimes import Network


def main(arguments: Sequence[str]) -> None:
    """Load one file in one runtime and write its outputs."""
    runtime, directory, name, dataset, count, batch_size, output, *options = arguments
    manifest = read_manifest(Path(directory))
    file = check_file(Path(directory), manifest, name)
    batches = _batches(open_dataset(Path(dataset)).test, manifest, int(count), int(batch_size))
    if "steps" in options:
        np.savez(output, **_onnx_steps(file, np.concatenate(list(batches))))  # type: ignore[arg-type]
    else:
        network = open_file(file, cast(Runtime, runtime), manifest.engine)
        np.save(output, np.concatenate([_run(network, batch) for batch in batches]))


def _run(network: "Network", batch: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = network(batch)
    print(len(batch), flush=True)
    return logits


def _batches(split: Split, manifest: Manifest, count: int, batch_size: int) -> Iterator[NDArray[np.float32]]:
    step = images_per_pass(manifest.preprocessing.size, batch_size)
    for start in range(0, count, step):
        yield normalize(split.read(slice(start, min(start + step, count))), manifest.input)


def _onnx_steps(file: Path, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return the dequantized output of every quantized step, by name."""
    import onnx

    model = onnx.load(file)
    suffix = ".dequantize"
    steps = {
        node.output[0]: node.name.removesuffix(suffix)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".quantized")
    }
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in steps)
    values = onnxruntime_session(model.SerializeToString()).run(list(steps), {INPUT: images})
    return dict(zip(steps.values(), values, strict=True))


if __name__ == "__main__":
    run("export", lambda: main(sys.argv[1:]))
