"""What the report was made with and on."""

import platform
from importlib.metadata import version
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_PACKAGES = ("ptqflow", "torch", "torchvision", "onnxruntime", "dvc")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    return {"Python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def cpu_model(info: Path = _CPU_INFO) -> str:
    """Return the name of the CPU, as Linux tells it or else as Python knows it."""
    try:
        lines = info.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name"]
    return names[0] if names else platform.processor() or platform.machine()
