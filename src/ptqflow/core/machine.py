"""The machine: its CPU, and how much of it this process may use."""

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# By which the INT8 kernels of torch, ONNX Runtime and OpenVINO are selected.
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
_ROOT = Path("/")
_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of logical cores that this process may use: those of its CPU affinity, at most its CPU quota.

    Args:
        root: of the file system whose `proc` and `sys` are read.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else min(cores, quota)


def cpu_quota(root: Path = _ROOT) -> int | None:
    """Return how many cores the cgroups of this process may keep busy, rounded up; None without a limit.

    A container runtime limits CPU time by the bandwidth control of cgroups, version 1 (`cpu.cfs_quota_us`) or 2
    (`cpu.max`). The affinity does not show it. The limits of all groups around the process apply.
    """
    return min((math.ceil(quota) for quota in _quotas(root)), default=None)


def describe_machine(threads: int) -> dict[str, Any]:
    """Return the CPU's model, the usable cores, the threads used, and which instructions for INT8 it has."""
    text = _read(_CPUINFO)
    return {"cpu": cpu_model(text), "cores": usable_cores(), "threads": threads, "instructions": instructions(text)}


def cpu_model(cpuinfo: str) -> str:
    """Return the model name in the text of /proc/cpuinfo, else the architecture."""
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def instructions(cpuinfo: str) -> list[str]:
    """Return those of INSTRUCTIONS that the CPU has, by the text of /proc/cpuinfo."""
    flags = (_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split()
    return [name for name in INSTRUCTIONS if name in flags]


def is_x86_without(*names: str, root: Path = _ROOT) -> bool:
    """Return whether the CPU is an x86 with none of these INSTRUCTIONS, or one whose instructions are not listed."""
    return platform.machine() in _X86 and not {*names} & {*instructions(_read(root / "proc/cpuinfo"))}


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits of the process's cgroups in cores; see cgroups(7) for the files.

    In a container /proc/self/cgroup may name a group of the host that is not mounted: its mount's root is the group.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        path = Path(group.lstrip("/"))
        for folder in (path, *path.parents):
            limit = _read_v1(mount / folder) if controllers else _read(mount / folder / "cpu.max").split()
            if len(limit) == 2 and limit[0].isdecimal():  # else "max" or -1
                yield int(limit[0]) / int(limit[1])


def _read_v1(group: Path) -> list[str]:
    return [*_read(group / "cpu.cfs_quota_us").split(), *_read(group / "cpu.cfs_period_us").split()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _field(cpuinfo: str, name: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
