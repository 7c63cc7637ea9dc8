"""What users write without ptqflow: quantize fp32.onnx, calibrate on training images, print the top-1 on test images.

`plain_script.py PEER EXPORT DATASET IMAGES BATCH [fp32]`: PEER is MinMax or Percentile (ONNX Runtime's quantizer)
or NNCF (with OpenVINO). With `fp32`, FP32's top-1 is printed, too. It imports nothing of ptqflow; `turnaround.py` times
it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print INT8's top-1 and, where asked, FP32's."""
    peer, export, dataset, count, batch, *options = sys.argv[1:]
    card = json.loads((Path(export) / "model.json").read_text())["input"]
    mean, std = (np.array(card[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))

    def batches(split: str, most: int | None = None) -> Iterator[np.ndarray]:
        pixels = np.load(Path(dataset) / f"{split}_images.npy", mmap_mode="r")[:most]
        for start in range(0, len(pixels), int(batch)):
            images = np.ascontiguousarray(pixels[start : start + int(batch)].transpose(0, 3, 1, 2))
            yield (images.astype(np.float32) / np.float32(255) - mean) / std

    labels = np.load(Path(dataset) / "test_labels.npy")

    def top1(run: Run) -> float:
        predicted = np.concatenate([run(images).argmax(axis=1) for images in batches("test")])
        return float((predicted == labels).mean())

    fp32 = Path(export) / "fp32.onnx"
    with TemporaryDirectory() as folder:
        int8, opened = (nncf if peer == "NNCF" else onnxruntime)(peer, fp32, batches("train", int(count)), Path(folder))
        print(top1(int8))
        if "fp32" in options:
            print(top1(opened()))


def onnxruntime(
    method: str, fp32: Path, calibration: Iterator[np.ndarray], folder: Path
) -> tuple[Run, Callable[[], Run]]:
    """Quantize with ONNX Runtime's quantizer, as its documentation does: QDQ, per channel, after the preprocessing."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(calibration, None)
            return None if images is None else {"images": images}

    prepared, int8 = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(fp32, prepared)
    options: dict[str, Any] = {"calibrate_method": CalibrationMethod[method], "per_channel": True}
    quantize_static(prepared, int8, Reader(), quant_format=QuantFormat.QDQ, **options)

    def opened(file: Path) -> Run:
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]

    return opened(int8), lambda: opened(fp32)


def nncf(_: str, fp32: Path, calibration: Iterator[np.ndarray], folder: Path) -> tuple[Run, Callable[[], Run]]:
    """Quantize with NNCF's default for OpenVINO."""
    import nncf as compression
    import openvino

    core = openvino.Core()
    images = list(calibration)
    int8 = compression.quantize(core.read_model(fp32), compression.Dataset(images), subset_size=len(images))

    def opened(model: Any) -> Run:
        compiled = core.compile_model(model, "CPU")
        return lambda images: compiled(images)[0]

    return opened(int8), lambda: opened(core.read_model(fp32))


if __name__ == "__main__":
    main()
