"""Run an exported file on test images, as another project would: in a process that knows nothing else.

`python -m ptqflow.export.replay RUNTIME EXPORT FILE DATASET IMAGES BATCH OUTPUT [steps]`: logits of the first IMAGES
test images as an .npy file, or with `steps` the values of every rounded tensor as an .npz file. ONNX needs no torch.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptqflow.data.dataset import Split, open_dataset
from ptqflow.manifest import INPUT, OUTPUT, Manifest, check_file, read_manifest
from ptqflow.stage import run

Images = NDArray[np.float32]


def main(arguments: Sequence[str]) -> None:
    """Load one file in one runtime and write what it gives."""
    runtime, directory, name, dataset, count, batch_size, output, *options = arguments
    manifest = read_manifest(Path(directory))
    file = check_file(Path(directory), manifest, name)
    batches = _batches(open_dataset(Path(dataset)).test, manifest, int(count), int(batch_size))
    if "steps" in options:
        np.savez(output, **_onnx_steps(file, np.concatenate(list(batches))))  # type: ignore[arg-type]
    else:
        network = {"torch": _load_torch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}[runtime]
        predict = network(file, manifest)
        np.save(output, np.concatenate([predict(batch) for batch in batches]))


def _batches(split: Split, manifest: Manifest, count: int, batch_size: int) -> Iterator[Images]:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (manifest.input.mean, manifest.input.std))
    for start in range(0, count, batch_size):
        pixels = np.asarray(split.images[start : min(start + batch_size, count)]).transpose(0, 3, 1, 2)
        yield (np.ascontiguousarray(pixels, np.float32) / np.float32(255) - mean) / std


def _load_torch(file: Path, manifest: Manifest) -> Callable[[Images], Images]:
    import torch

    torch.backends.quantized.engine = manifest.engine
    network = torch.jit.load(file)

    def predict(images: Images) -> Images:
        with torch.inference_mode():
            logits: Images = network(torch.from_numpy(images)).numpy()
        return logits

    return predict


def _load_onnxruntime(file: Path, manifest: Manifest) -> Callable[[Images], Images]:
    session = _session(file.read_bytes())
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _load_openvino(file: Path, manifest: Manifest) -> Callable[[Images], Images]:
    import openvino

    network = openvino.compile_model(file, "CPU")
    return lambda images: network(images)[0]


def _onnx_steps(file: Path, images: Images) -> dict[str, NDArray[Any]]:
    """Return the values behind every rounding of an activation, by the name of its step."""
    import onnx

    model = onnx.load(file)
    suffix = ".dequantize"
    steps = {
        node.output[0]: node.name.removesuffix(suffix)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".codes")
    }
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in steps)
    values = _session(model.SerializeToString()).run(list(steps), {INPUT: images})
    return dict(zip(steps.values(), values, strict=True))


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    run("export", lambda: main(sys.argv[1:]))
