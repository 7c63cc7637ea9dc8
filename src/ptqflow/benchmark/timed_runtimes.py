"""The runtimes in which a network is timed, each with its number of threads set and the other defaults unchanged.

A function of a runtime imports it and returns what loads the network, so that imports are not part of the time that
loading takes. None imports another's library: a process that runs ONNX Runtime has no torch in its memory.
"""

import copy
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np

from ptqflow.core.normalization import InputShape
from ptqflow.runtime.runtimes import PACKAGES, import_openvino, onnxruntime_session, openvino_model, torchscript_module

Runtime = Literal["torch_eager", "torchscript", "onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
LIBRARIES: Mapping[str, str] = {"torch_eager": "torch", **PACKAGES}

Run = Callable[[], object]


@dataclass(frozen=True)
class Task:
    """One network in one runtime at one batch size."""

    runtime: Runtime
    path: str
    """Of the network's file; for torch_eager of the weights in a directory that `train` or `convert` wrote."""
    batch: int
    input_shape: InputShape
    threads: int
    engine: str | None = None
    """Of torch, for which an INT8 network was converted; None for FP32."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input, (N, C, H, W)."""
        return (self.batch, *self.input_shape)


@dataclass(frozen=True)
class Loaded:
    """A network that is ready for its first input."""

    run: Run
    """Run the same batch once more."""
    profile: Callable[[], dict[str, float]]
    """Return the seconds of each kind of operation in some more runs."""
    forms: Mapping[str, Callable[[], Run]] = field(default_factory=dict)
    """Other ways to run the same network, by name; the fastest depends on the batch and the CPU."""


Load = Callable[[], Loaded]


def is_installed(runtime: Runtime) -> bool:
    """Return whether the library of a runtime is installed."""
    return importlib.util.find_spec(LIBRARIES[runtime]) is not None


def import_runtime(task: Task) -> tuple[Load, dict[str, str]]:
    """Import what a task needs; return what loads its network, and versions to record."""
    runtimes = {
        "torch_eager": _torch_eager,
        "torchscript": _torchscript,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    }
    return runtimes[task.runtime](task)


def example(task: Task) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a batch of normalized noise, float32 (N, C, H, W); the same for every runtime."""
    return np.random.default_rng(0).standard_normal(task.shape, dtype=np.float32)


def _torch_eager(task: Task) -> tuple[Load, dict[str, str]]:
    import torch

    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32

    torch.set_num_threads(task.threads)

    def load() -> Loaded:
        images = torch.from_numpy(example(task))
        if task.engine is not None:
            return _of_torch(load_int8(Path(task.path).parent).module, images)
        model = load_fp32(Path(task.path).parent).module

        def channels_last() -> Run:
            another: Any = copy.deepcopy(model)
            layout = torch.channels_last
            return _of_torch(another.to(memory_format=layout), images.to(memory_format=layout)).run

        return _of_torch(model, images, {"channels_last": channels_last})

    return load, _torch_versions()


def _torchscript(task: Task) -> tuple[Load, dict[str, str]]:
    import torch

    torch.set_num_threads(task.threads)

    def load() -> Loaded:
        images = torch.from_numpy(example(task))
        model = torchscript_module(Path(task.path), task.engine)
        if task.engine is not None:
            return _of_torch(model, images)

        def optimized() -> Run:
            return _of_torch(torch.jit.optimize_for_inference(model), images).run

        return _of_torch(model, images, {"optimize_for_inference": optimized})

    return load, _torch_versions()


def _torch_versions() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__, "torch_capability": torch.backends.cpu.get_cpu_capability()}


def _of_torch(model: Any, images: Any, forms: Mapping[str, Callable[[], Run]] | None = None) -> Loaded:
    import torch

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    def profile() -> dict[str, float]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(5):
                run()
        return {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}

    return Loaded(run, profile, forms or {})


def _onnxruntime(task: Task) -> tuple[Load, dict[str, str]]:
    import onnxruntime

    def session(profile_prefix: str | None = None) -> Run:
        options: dict[str, Any] = {"intra_op_num_threads": task.threads, "inter_op_num_threads": 1}
        if profile_prefix is not None:
            options |= {"enable_profiling": True, "profile_file_prefix": profile_prefix}
        session = onnxruntime_session(Path(task.path), **options)
        inputs = {session.get_inputs()[0].name: example(task)}
        if profile_prefix is None:
            return lambda: session.run(None, inputs)
        for _ in range(5):
            session.run(None, inputs)
        return session.end_profiling  # type: ignore[no-any-return]

    def profile() -> dict[str, float]:
        with TemporaryDirectory() as folder:
            file = session(f"{folder}/profile")()
            events = json.loads(Path(str(file)).read_text(encoding="utf-8"))
        seconds: dict[str, float] = {}
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                name = event["args"]["op_name"]
                seconds[name] = seconds.get(name, 0.0) + event["dur"] / 1e6
        return seconds

    return lambda: Loaded(session(), profile), {"onnxruntime": onnxruntime.__version__}


def _openvino(task: Task) -> tuple[Load, dict[str, str]]:
    openvino = import_openvino()

    def request(**more: str) -> Any:
        threads = {"INFERENCE_NUM_THREADS": str(task.threads), "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        return openvino_model(Path(task.path), task.shape, **threads, **more).create_infer_request()

    def load() -> Loaded:
        loaded, images = request(), example(task)
        return Loaded(lambda: loaded.infer([images], share_inputs=True, share_outputs=True), profile)

    def profile() -> dict[str, float]:
        profiled = request(PERF_COUNT="YES")
        for _ in range(2):
            profiled.infer([example(task)])
        seconds: dict[str, float] = {}
        for entry in profiled.profiling_info:
            seconds[entry.node_type] = seconds.get(entry.node_type, 0.0) + entry.real_time.total_seconds()
        return seconds

    return load, {"openvino": openvino.__version__.split("-")[0]}
