"""Write the exported files and compare them with the networks in torch."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ptqflow.core.artifacts import write_bytes
from ptqflow.core.errors import ArtifactError, ModelError
from ptqflow.core.figures import FileCheck
from ptqflow.core.machine import usable_cores
from ptqflow.core.paths import LOGITS
from ptqflow.data.accuracy import predictions
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import DatasetCard, Split
from ptqflow.data.logits import Logits, require_logits_of
from ptqflow.data.preprocessing import to_input
from ptqflow.export.gate import EXAMPLES, Gate, first_divergence
from ptqflow.export.onnx import to_onnx
from ptqflow.export.params import ExportParams
from ptqflow.export.qdq import build_qdq, step_outputs
from ptqflow.export.torchscript import to_torchscript
from ptqflow.fx.artifact import Int8Model
from ptqflow.models.fp32 import ModelCard
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, InputCard
from ptqflow.runtime.reference import IMAGES, Reference, generate_images, write_reference
from ptqflow.runtime.runtimes import PACKAGES, Runtime


@dataclass(frozen=True)
class Networks:
    """The networks that are exported."""

    fp32: nn.Module
    int8: Int8Model

    @property
    def card(self) -> ModelCard:
        """Architecture, classes and input of both."""
        return self.int8.card.model


@dataclass(frozen=True)
class LogitsPair:
    """Of both networks for the test images, (N, classes)."""

    int8: NDArray[np.float32]
    fp32: NDArray[np.float32]


def pair_logits(networks: Networks, int8: Logits, fp32: Logits, dataset: DatasetCard) -> LogitsPair:
    """Return the logits of the networks for the test images of a data set.

    Raises:
        ArtifactError: they are of other networks, or for other test images.
    """
    for logits, sha256 in ((int8, networks.int8.card.state_sha256), (fp32, networks.card.weights_sha256)):
        directory = LOGITS / logits.card.network
        require_logits_of(logits, dataset, networks.card.weights_sha256, directory)
        if logits.card.model_sha256 != sha256:
            raise ArtifactError(f"{directory} holds logits of another network; run `dvc repro`")
    return LogitsPair(int8.values, fp32.values)


def write_files(directory: Path, networks: Networks, logits: LogitsPair, params: ExportParams) -> None:
    """Write the INT8 network as TorchScript and ONNX, the FP32 one as ONNX, and the reference for `ptqflow verify`.

    Args:
        directory: where they are written.
        networks: which.
        logits: of both for the test images.
        params: the section `export`.

    Raises:
        ModelError: ONNX has no operator for an operation; the error names it and its layer.
    """
    card, module = networks.card, networks.int8.module
    write_bytes(directory / INT8_TORCHSCRIPT, to_torchscript(module, card.input_shape))
    if params.onnx:
        qdq = build_qdq(module, card.input_shape)
        write_bytes(directory / INT8_ONNX, to_onnx(qdq, card.input_shape, _metadata(card, "int8")))
        write_bytes(directory / FP32_ONNX, to_onnx(networks.fp32, card.input_shape, _metadata(card, "fp32")))
    on_int8, on_fp32 = (_run_on_generated_images(network, card) for network in (module, networks.fp32))
    predicted = predictions(logits.int8), predictions(logits.fp32)
    write_reference(directory, Reference(on_int8, on_fp32, *predicted))


def _run_on_generated_images(network: nn.Module, card: ModelCard) -> NDArray[np.float32]:
    images = torch.from_numpy(generate_images(IMAGES, card.input_shape))
    with torch.inference_mode():
        batches = images.split(images_per_pass(card.preprocessing.size, len(images)))
        logits: NDArray[np.float32] = torch.cat([network(to_input(b, card.normalization)) for b in batches]).numpy()
    return logits


def check_files(
    gate: Gate, networks: Networks, logits: LogitsPair, test: Split, params: ExportParams
) -> list[FileCheck]:
    """Run each file in a fresh process, some at the same time, and compare it with its network.

    Args:
        gate: which compares.
        networks: of the files.
        logits: of both for the test images.
        test: the images.
        params: the section `export`.

    Raises:
        ModelError: a file does not run or its predictions are not equivalent; the error names the first layer that
            differs.
    """

    def check_int8_onnx(runtime: Runtime) -> FileCheck:
        return gate.require_fidelity(runtime, INT8_ONNX, logits.int8, logits.fp32, params.margin)

    def check_in_onnxruntime() -> FileCheck:
        try:
            return check_int8_onnx("onnxruntime")
        except ModelError as error:
            raise ModelError(f"{error}; {_where(gate, networks, test)}") from None

    with ThreadPoolExecutor(usable_cores()) as pool:
        checks = [pool.submit(gate.require_equal, "torchscript", INT8_TORCHSCRIPT, logits.int8, logits.fp32)]
        if params.onnx:
            checks.append(pool.submit(check_in_onnxruntime))
            checks.append(pool.submit(gate.require_rounding, "onnxruntime", FP32_ONNX, logits.fp32))
            if params.openvino:
                checks.append(pool.submit(check_int8_onnx, "openvino"))
    return [check.result() for check in checks]


def summarize(checks: Sequence[FileCheck]) -> str:
    """Return which files passed, and top-1 of int8.onnx in each runtime, or its agreement with FP32 without labels."""
    files = dict.fromkeys(check.file for check in checks)
    found = [check for check in checks if check.file == INT8_ONNX]
    passed = f"{', '.join(files)} {'pass' if len(files) > 1 else 'passes'}"
    if not found:
        return passed
    figure = "agreement" if found[0].top1 is None else "top-1"
    shares = [(check.fp32_agreement if check.top1 is None else check.top1, check.runtime) for check in found]
    return f"{passed}; {figure} of {INT8_ONNX} {', '.join(f'{100 * share:.2f} % in {name}' for share, name in shares)}"


def require_runtimes(params: ExportParams) -> None:
    """Check that the runtimes in which files are compared are installed.

    Raises:
        ModelError: OpenVINO is not.
    """
    runtime: Runtime = "openvino"
    if params.onnx and params.openvino and find_spec(PACKAGES[runtime]) is None:
        raise ModelError(
            "export.openvino is true, and openvino is not installed: `pip install '.[openvino]'` in a clone of "
            "ptqflow, or set it to false"
        )


def _where(gate: Gate, networks: Networks, test: Split) -> str:
    card = networks.card
    count = min(images_per_pass(card.preprocessing.size, EXAMPLES), len(test))
    images = to_input(torch.from_numpy(test.read(slice(count))), card.normalization)
    expected = step_outputs(networks.int8.module, images)
    layer = first_divergence(expected, gate.replay("onnxruntime", INT8_ONNX, count, "steps"))
    return f"the first layer that differs is {layer}" if layer else "no single layer stands out"


def _metadata(card: ModelCard, precision: str) -> dict[str, str]:
    """Return the metadata of an ONNX file: preprocessing, input, classes and architecture."""
    described = InputCard.of(card.normalization)
    return {
        "architecture": card.name,
        "precision": precision,
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "input": json.dumps(described.model_dump(mode="json")),
        "preprocessing": json.dumps(card.preprocessing.model_dump(mode="json")),
        "preprocessing_in_words": f"{card.preprocessing}; {described.formula}",
    }
