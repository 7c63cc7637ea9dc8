"""Activations of 16 bits beside INT8 and FP32 in ONNX Runtime and OpenVINO: fidelity, latency in turns, kernels.

    PYTHONPATH=src python benchmarks/sixteen_bits.py ../resnet --tensors 'layer4.*'

The folder is a clone in which the pipeline has run, by default the current one. uint16 needs opset 21 of ONNX. It needs
an environment with `.[pipeline,peers]`.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from fidelity import evenly
from folders import run_in_each
from onnx import ModelProto, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationMethod, QuantType
from peers import REFERENCE, Row, add_timing_arguments, describe, score, table, time_rows
from quantizers import quantize_with_onnxruntime

from ptqflow.benchmark.timed_runtimes import Runtime
from ptqflow.calib.statistics import load_statistics
from ptqflow.core.paths import DATASET, EXPORT, FP32, STATISTICS
from ptqflow.data.dataset import Dataset, open_dataset
from ptqflow.data.preprocessing import to_input
from ptqflow.models.fp32 import Fp32Model, load_fp32
from ptqflow.models.logits import compute_logits
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX
from ptqflow.runtime.runtimes import onnxruntime_session, openvino_model

OPSET, IR_VERSION = 21, 10
STEPS = 257  # of 16 bits in one of 8: 65535 / 255
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
FLOAT_KERNELS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
INTEGER_KERNELS = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER")
    parser.add_argument("--tensors", nargs="+", default=["*"], help="patterns of steps whose output gets 16 bits")
    parser.add_argument("--images", type=int, default=1000, help="test images, evenly spaced")
    add_timing_arguments(parser, processes=3)
    arguments = parser.parse_args()
    for _ in run_in_each(arguments.folders, compare, arguments):
        pass


def compare(arguments: argparse.Namespace) -> None:
    """Print the tables of one network."""
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as scratch:
        dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
        test = evenly(dataset.test, arguments.images)
        reference = compute_logits(fp32.module, test, fp32.card.normalization, 256, "test").numpy()
        files = make_files(fp32, dataset, arguments.tensors, Path(scratch))
        rows = [
            score(Row(f"{name}, {runtime}", {runtime: path}), test, fp32)
            for name, path in files.items()
            for runtime in RUNTIMES
        ]
        batches = [] if arguments.no_speed else arguments.batch_sizes
        timings = {batch: time_rows(rows, batch, fp32.card.input_shape, arguments) for batch in batches}
        print(describe(fp32, dataset, test, arguments))
        base = [row.timed(runtime) for row, runtime in zip(rows, RUNTIMES, strict=False)]
        print(table(rows, reference, test, timings, base))
        print(kernel_table(files, fp32.card.input_shape), flush=True)


def make_files(fp32: Fp32Model, dataset: Dataset, patterns: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return FP32, INT8 with 8 and with 16 bits, and what ONNX Runtime's quantizer makes with 8 and with 16 bits."""
    drawn = load_statistics(STATISTICS, fp32.card).rows.ravel()
    images = to_input(torch.from_numpy(dataset.train.images[drawn]), fp32.card.normalization).numpy()
    wide = folder / "wide.onnx"
    model, count = widen(onnx.load(EXPORT / INT8_ONNX), patterns)
    onnx.save(model, wide)
    files = {REFERENCE: EXPORT / FP32_ONNX, "INT8": EXPORT / INT8_ONNX, f"INT8, {count} tensors uint16": wide}
    for name, kind in (("uint8", QuantType.QUInt8), ("uint16", QuantType.QUInt16)):
        path = folder / name
        quantize_with_onnxruntime(EXPORT / FP32_ONNX, images, path, CalibrationMethod.MinMax, kind)
        files[f"ONNX Runtime's quantizer, {name}"] = path.with_suffix(".onnx")
    return files


def widen(model: ModelProto, patterns: Sequence[str]) -> tuple[ModelProto, int]:
    """Return a QDQ model in which the tensors that match have the same range in 257 times as many steps."""
    wide = version_converter.convert_version(model, OPSET)
    wide.ir_version = IR_VERSION
    tensors = {tensor.name: tensor for tensor in wide.graph.initializer}
    count = 0
    for node in wide.graph.node:
        name = node.name.removesuffix(".quantize")
        if node.op_type != "QuantizeLinear" or not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        scale, zero_point = (tensors[name] for name in node.input[1:])
        narrow = numpy_helper.to_array(scale), numpy_helper.to_array(zero_point)
        scale.CopyFrom(numpy_helper.from_array(narrow[0] / np.float32(STEPS), scale.name))
        zero_point.CopyFrom(numpy_helper.from_array(narrow[1].astype(np.uint16) * np.uint16(STEPS), zero_point.name))
        count += 1
    del wide.graph.value_info[:]  # of tensors that were uint8
    return onnx.shape_inference.infer_shapes(wide), count


def kernel_table(files: dict[str, Path], shape: tuple[int, int, int]) -> str:
    """One row a file: how many of its convolutions and matrix products each runtime computes in integers."""
    lines = ["| convolutions and products in integers | ONNX Runtime | OpenVINO |", "|---|---|---|"]
    for name, path in files.items():
        cells = (describe_kernels(counts) for counts in (onnxruntime_kernels(path), openvino_kernels(path, shape)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe_kernels(counts: Counter[bool]) -> str:
    return f"{counts[True]} of {counts.total()}"


def onnxruntime_kernels(path: Path) -> Counter[bool]:
    """Count the kernels of the optimized graph by whether they compute in integers."""
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        onnxruntime_session(path, optimized_model_filepath=str(optimized))
        kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    return Counter(kind in INTEGER_KERNELS for kind in kinds if kind in FLOAT_KERNELS + INTEGER_KERNELS)


def openvino_kernels(path: Path, shape: tuple[int, int, int]) -> Counter[bool]:
    """Count the kernels of the compiled model by whether they compute in integers."""
    steps: list[Any] = openvino_model(path, (1, *shape)).get_runtime_model().get_ops()
    found = [step.get_rt_info() for step in steps]
    return Counter(
        info["runtimePrecision"].astype(str) in ("u8", "i8")
        for info in found
        if info["layerType"].astype(str) in ("Convolution", "MatMul", "FullyConnected", "Deconvolution")
    )


if __name__ == "__main__":
    main()
