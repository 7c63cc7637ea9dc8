"""The libraries that run an exported model, and how each opens a file."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ptqflow.core.errors import EngineError, one_line
from ptqflow.core.machine import is_x86_without

if TYPE_CHECKING:  # the command line reads the names below before it knows whether arrays are needed
    import numpy as np
    from numpy.typing import NDArray

    from ptqflow.runtime.manifest import Manifest

    Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_VNNI = ("avx512_vnni", "avx_vnni")
Runtime = Literal["openvino", "onnxruntime", "torchscript"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
"""In the order of the CPU seconds of `ptqflow predict` on many images: docs/use.md has the measurements."""
BY_DEFAULT: tuple[Runtime, ...] = ("openvino", "onnxruntime")
"""That `open_first` tries. A TorchScript file is a program, to be run only by those who trust its author."""
PACKAGES: Mapping[str, str] = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torchscript": "torch"}

_ANYWHERE = "`pip install --upgrade onnxruntime` installs a runtime for any CPU"
_ON_REQUEST = "torchscript runs only on request, since its file is a program: use it if you trust its author"


def open_first(directory: Path, manifest: "Manifest", note: Callable[[str], None]) -> "tuple[Runtime, Network]":
    """Load a model into the first of `BY_DEFAULT` that can run it here, and return which it is.

    Args:
        directory: of the exported model.
        manifest: of the same.
        note: called with one line for each runtime before it that is installed and fails to load.

    Raises:
        ArtifactError: a file is missing or changed.
        EngineError: none can run it; the error holds the reason of each.
    """
    reasons = []
    for runtime in BY_DEFAULT:
        reason = find_obstacle(runtime, manifest)
        if reason is None:
            try:
                return runtime, open_network(directory, manifest, runtime)
            except EngineError as error:
                reason = str(error)
                note(f"skipped {runtime}: {reason}")
        reasons.append(f"{runtime}: {reason}")
    raise EngineError(f"no runtime can run the model here ({'; '.join(reasons)}); {_ANYWHERE}; {_ON_REQUEST}")


def find_obstacle(runtime: Runtime, manifest: "Manifest") -> str | None:
    """Return why a runtime cannot run a model here, None if it can."""
    if find_spec(PACKAGES[runtime]) is None:
        return f"the package {PACKAGES[runtime]} is not installed"
    if _file(runtime) not in manifest.files:
        return f"{_file(runtime)} was not exported"
    if runtime == "openvino" and manifest.needs.vnni and is_x86_without(*_VNNI):
        return "its kernels overflow with the model's 8-bit activations on a CPU without VNNI, and this one has none"
    return _find_obstacle_of_torch(manifest) if runtime == "torchscript" else None


def open_network(directory: Path, manifest: "Manifest", runtime: Runtime) -> "Network":
    """Load a model into a runtime: float32 (N, C, size, size), normalized, to logits float32 (N, classes).

    Raises:
        ArtifactError: its file is missing or changed.
        EngineError: the runtime cannot run it here, or it does not return logits of this shape for one and two images.
    """
    import numpy as np

    from ptqflow.runtime.manifest import check_file

    if reason := find_obstacle(runtime, manifest):
        raise EngineError(f"{runtime} cannot run the model here: {reason}; {_ANYWHERE}")
    path = check_file(directory, manifest, _file(runtime))
    network = _checked(open_file(path, runtime, manifest.engine), runtime, path, len(manifest.classes))
    for count in (1, 2):  # of any number of images, it says
        network(np.zeros((count, *manifest.input_shape), np.float32))
    return network


def _checked(network: "Network", runtime: Runtime, path: Path, classes: int) -> "Network":
    """Return a network that raises an `EngineError` where it fails or returns anything but float32 (N, classes)."""
    import numpy as np

    def run(images: "NDArray[np.float32]") -> "NDArray[np.float32]":
        try:
            logits = network(images)
        except Exception as error:  # each runtime raises its own, and a program whatever it likes
            raise EngineError(f"{runtime} cannot run {path}: {_message(error)}") from None
        found = f"{logits.dtype} {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
        if found != f"float32 {(len(images), classes)}":
            raise EngineError(
                f"{path} returns {found} for {len(images)} images of {classes} classes in {runtime}: it is not a "
                "classifier that ptqflow exported"
            )
        return logits

    return run


def _message(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def open_file(path: Path, runtime: Runtime, engine: str) -> "Network":
    """Load one file into a runtime.

    Args:
        path: of an ONNX file, for `torchscript` of a TorchScript file.
        runtime: that runs it.
        engine: of torch, for which an INT8 TorchScript file was converted.

    Raises:
        EngineError: it cannot be loaded.
    """
    opener = {"openvino": _open_openvino, "onnxruntime": _open_onnxruntime, "torchscript": _open_torchscript}[runtime]
    try:
        return opener(path, engine)
    except Exception as error:  # each runtime raises its own, and any if it is too old or its installation is broken
        raise EngineError(f"{runtime} cannot load {path}: {_message(error)}; {_ANYWHERE}") from None


def onnxruntime_session(model: Path | bytes, **options: Any) -> Any:
    """Return an `InferenceSession` of an ONNX model on the CPU; `options` are attributes of `SessionOptions`."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    if is_x86_without(*_VNNI):  # its kernels for int8 weights overflow with 8-bit activations; others are half as fast
        settings.add_session_config_entry("session.x64quantprecision", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    # It would quantize the weights of layers that are FP32 between INT8 steps, with one scale for all channels.
    disabled = ["WeightBiasQuantization"]
    return onnxruntime.InferenceSession(
        model, settings, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def import_openvino() -> Any:
    """Return the module `openvino` without its telemetry, which starts a process that sends reports to a server."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that its import fails
    import openvino

    return openvino


def openvino_model(path: Path, shape: tuple[int, ...] | None = None, **properties: str) -> Any:
    """Return a `CompiledModel` of an ONNX file on the CPU.

    FP32 stays FP32: without the hint, OpenVINO computes in bfloat16 what is FP32, where the CPU is faster in it.

    Args:
        path: of the file.
        shape: of the input, for which the model is compiled; None leaves the number of images dynamic.
        properties: of OpenVINO's CPU plugin, such as INFERENCE_NUM_THREADS.
    """
    core = import_openvino().Core()
    from openvino.frontend import FrontEndManager

    # Core.read_model tries readers of other formats after ONNX, of which TensorFlow's prints what the file holds.
    reader = FrontEndManager().load_by_framework("onnx")
    model = reader.convert(reader.load(path))
    if shape is not None:
        model.reshape(shape)
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"} | properties)


def torchscript_module(path: Path, engine: str | None) -> Any:
    """Return the module of a TorchScript file on the CPU; select the engine of an INT8 one for this process."""
    import torch

    if engine is not None:
        torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        return torch.jit.load(path, map_location="cpu").eval()


def _open_onnxruntime(path: Path, _: str) -> "Network":
    session = onnxruntime_session(path)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _open_openvino(path: Path, _: str) -> "Network":
    compiled = openvino_model(path)
    return lambda images: compiled(images)[0].copy()  # the next call overwrites it


def _open_torchscript(path: Path, engine: str) -> "Network":
    import torch

    module = torchscript_module(path, engine)

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
    except Exception:  # a broken installation, which is reported when the file is loaded
        return None
    engine = next((engine for engine in available_engines() if engine == manifest.engine), None)
    if engine is None:
        return f"it needs the engine {manifest.engine}, and torch has {', '.join(available_engines())}"
    if manifest.needs.vnni and lacks_vnni(engine):
        return f"on {engine} it needs a CPU with VNNI, and this one has none"
    return None
