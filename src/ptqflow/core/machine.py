"""The machine that figures were measured on."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

# What the INT8 kernels of torch, ONNX Runtime and OpenVINO choose by.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
_CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Return the number of cores that this process may run on, with those that share one counted singly."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def describe_machine(threads: int) -> dict[str, Any]:
    """Return the CPU's model, its cores, the threads used, and which instructions for INT8 it has."""
    text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
    return {"cpu": cpu_model(text), "cores": usable_cores(), "threads": threads, "instructions": instructions(text)}


def cpu_model(cpuinfo: str) -> str:
    """Return the name that the kernel gives the CPU, else the architecture."""
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def instructions(cpuinfo: str) -> list[str]:
    """Return those of INSTRUCTIONS that the CPU has."""
    flags = (_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split()
    return [name for name in INSTRUCTIONS if name in flags]


def _field(cpuinfo: str, name: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
