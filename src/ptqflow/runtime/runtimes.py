"""The libraries that run an exported model."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ptqflow.core.errors import EngineError

if TYPE_CHECKING:  # the command line reads the names below before it knows whether arrays are needed
    import numpy as np
    from numpy.typing import NDArray

    from ptqflow.runtime.manifest import Manifest

    Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

Runtime = Literal["openvino", "onnxruntime", "torchscript"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
"""In the order of the CPU seconds of `ptqflow predict` on many images: docs/use.md has the measurements."""

_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torchscript": "torch"}
_ANYWHERE = "`pip install --upgrade onnxruntime` gets a runtime that needs nothing of the CPU"


def open_first(directory: Path, manifest: "Manifest", note: Callable[[str], None]) -> "tuple[Runtime, Network]":
    """Load a model into the first of `RUNTIMES` that can run it here, and tell which it is.

    Args:
        directory: where it lies.
        manifest: what it says.
        note: called with one line for each runtime before it that is installed and fails to load.

    Raises:
        ArtifactError: a file is missing or changed.
        EngineError: none can; the error says why of each.
    """
    reasons = []
    for runtime in RUNTIMES:
        reason = find_obstacle(runtime, manifest)
        if reason is None:
            try:
                return runtime, open_network(directory, manifest, runtime)
            except EngineError as error:
                reason = str(error)
                note(f"left out {runtime}: {reason}")
        reasons.append(f"{runtime}: {reason}")
    raise EngineError(f"no runtime can run the model here ({'; '.join(reasons)}); {_ANYWHERE}")


def find_obstacle(runtime: Runtime, manifest: "Manifest") -> str | None:
    """Tell why a runtime cannot run a model here, None where it can."""
    if find_spec(_PACKAGES[runtime]) is None:
        return f"the package {_PACKAGES[runtime]} is not installed"
    if _file(runtime) not in manifest.files:
        return f"{_file(runtime)} was not exported"
    return _find_obstacle_of_torch(manifest) if runtime == "torchscript" else None


def open_network(directory: Path, manifest: "Manifest", runtime: Runtime) -> "Network":
    """Load a model into a runtime: float32 (N, 3, size, size), normalized, to logits float32 (N, classes).

    Raises:
        ArtifactError: its file is missing or changed.
        EngineError: the runtime cannot run it here.
    """
    from ptqflow.runtime.manifest import check_file

    if reason := find_obstacle(runtime, manifest):
        raise EngineError(f"{runtime} cannot run the model here: {reason}; {_ANYWHERE}")
    return open_file(check_file(directory, manifest, _file(runtime)), runtime, manifest.engine)


def open_file(path: Path, runtime: Runtime, engine: str, optimize: bool = True) -> "Network":
    """Load one file into a runtime.

    Args:
        path: an ONNX file, or for torch a TorchScript one.
        runtime: which.
        engine: of torch, that an INT8 TorchScript file was made for.
        optimize: False lets ONNX Runtime run every step of an INT8 graph as written, in float arithmetic.

    Raises:
        EngineError: it cannot be loaded.
    """
    try:
        if runtime == "torchscript":
            return _open_torchscript(path, engine)
        return _open_openvino(path) if runtime == "openvino" else _open_onnxruntime(path, optimize)
    except Exception as error:  # each runtime raises its own, and any where it is too old or its installation is broken
        raise EngineError(f"{runtime} cannot load {path}: {' '.join(str(error).split())}; {_ANYWHERE}") from None


def onnxruntime_session(model: Path | bytes, optimize: bool = True) -> Any:
    """Load a model into ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Without VNNI, its kernels for int8 weights overflow with 8-bit activations; with VNNI this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _open_onnxruntime(path: Path, optimize: bool) -> "Network":
    session = onnxruntime_session(path, optimize)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _open_openvino(path: Path) -> "Network":
    """Load an ONNX file; what is FP32 in it stays so, which OpenVINO by itself lowers where the CPU is faster then."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0].copy()  # the next call writes over it


def _open_torchscript(path: Path, engine: str) -> "Network":
    """Load a TorchScript file and select the engine for this process."""
    import torch

    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        module: Any = torch.jit.load(path, map_location="cpu").eval()

    def run(images: "NDArray[np.float32]") -> "NDArray[np.float32]":
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return logits

    return run


def _file(runtime: Runtime) -> str:
    from ptqflow.runtime.manifest import INT8_ONNX, INT8_TORCHSCRIPT

    return INT8_TORCHSCRIPT if runtime == "torchscript" else INT8_ONNX


def _find_obstacle_of_torch(manifest: "Manifest") -> str | None:
    try:
        from ptqflow.core.engines import available_engines, lacks_vnni
    except Exception:  # a broken installation, which is told where the file is loaded
        return None
    engine = next((engine for engine in available_engines() if engine == manifest.engine), None)
    if engine is None:
        return f"it needs the engine {manifest.engine}, and torch has {', '.join(available_engines())}"
    if manifest.needs.vnni and lacks_vnni(engine):
        return f"on {engine} it needs a CPU with VNNI, and this one has none"
    return None
