"""The CPU and how much of it is usable, by the files that Linux has for it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ptqflow.benchmark.grid import pinned_threads
from ptqflow.core.errors import BenchmarkError
from ptqflow.core.machine import (
    cpu_model,
    cpu_quota,
    describe_machine,
    instructions,
    is_x86_without,
    usable_cores,
)

X86 = "processor\t: 0\nmodel name\t: AMD EPYC: the 9th\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_model_and_instructions_are_those_of_the_first_core() -> None:
    assert cpu_model(X86) == "AMD EPYC: the 9th"
    assert instructions(X86) == ["avx2", "avx512f", "avx512_vnni"]
    assert instructions(ARM) == ["asimddp", "i8mm"]


def test_a_cpu_without_a_name_has_that_of_its_architecture() -> None:
    assert cpu_model(ARM)
    assert instructions("") == []


def test_all_cores_that_the_process_may_use_are_the_default() -> None:
    assert pinned_threads(None) == usable_cores()
    assert pinned_threads(1) == 1
    with pytest.raises(BenchmarkError, match="set it to null"):
        pinned_threads(usable_cores() + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_a_process_bound_to_one_core_has_one() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}])\nfrom ptqflow.core.machine import *\nprint(usable_cores())"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout == b"1\n"
    )


def write_root(files: dict[str, str]) -> Path:
    """Write files of /proc and /sys below a root of their own."""
    for name, content in files.items():
        path = Path("root", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Path("root")


V2, V1, NESTED = "0::/\n", "4:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12\n0::/\n", "0::/user.slice/a.scope\n"
CPU, UNIFIED = "sys/fs/cgroup/cpu", "sys/fs/cgroup"
UNLIMITED = {f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        pytest.param(V2, {f"{UNIFIED}/cpu.max": "200000 100000\n"}, 2, id="version 2"),
        pytest.param(V2, {f"{UNIFIED}/cpu.max": "150000 100000\n"}, 2, id="rounded up"),
        pytest.param(V2, {f"{UNIFIED}/cpu.max": "10000 100000\n"}, 1, id="a tenth of a core"),
        pytest.param(V2, {f"{UNIFIED}/cpu.max": "max 100000\n"}, None, id="version 2 without a limit"),
        pytest.param(V2, {}, None, id="the root, which has no limits"),
        pytest.param("", {}, None, id="not Linux"),
        pytest.param(NESTED, {f"{UNIFIED}/user.slice/a.scope/cpu.max": "300000 100000\n"}, 3, id="own group"),
        pytest.param(
            NESTED,
            {
                f"{UNIFIED}/user.slice/a.scope/cpu.max": "800000 100000\n",
                f"{UNIFIED}/user.slice/cpu.max": "400000 100000\n",
            },
            4,
            id="a tighter group around it",
        ),
        pytest.param(
            V1,
            {f"{CPU}/cpu.cfs_quota_us": "250000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1 in Docker",
        ),
        pytest.param(
            V1,
            UNLIMITED
            | {
                f"{CPU}/docker/ab12/cpu.cfs_quota_us": "50000\n",
                f"{CPU}/docker/ab12/cpu.cfs_period_us": "100000\n",
            },
            1,
            id="version 1 on the host",
        ),
        pytest.param(V1, UNLIMITED, None, id="version 1 without a limit"),
        pytest.param(
            "3:cpuset:/\n",
            {f"{CPU}/cpu.cfs_quota_us": "250000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            None,
            id="another controller",
        ),
    ],
)
def test_a_cpu_quota_bounds_the_cores(group: str, files: dict[str, str], quota: int | None) -> None:
    root = write_root({"proc/self/cgroup": group} | files)
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert cpu_quota(root) == quota
    assert usable_cores(root) == (affinity if quota is None else min(affinity or 1, quota))


def test_this_machine_is_described() -> None:
    machine = describe_machine(1)
    assert machine["threads"] == 1
    assert machine["cpu"]
    assert machine["cores"] >= 1


@pytest.mark.parametrize(
    ("flags", "lacks_one", "lacks_both"),
    [
        ("avx2 avx512f", True, True),
        ("avx2 avx_vnni", True, False),
        ("avx2 avx512f avx512_vnni", False, False),
        ("", True, True),
    ],
)
@pytest.mark.parametrize(("machine", "is_x86"), [("x86_64", True), ("AMD64", True), ("aarch64", False)])
def test_an_x86_without_instructions_is_recognized_by_its_flags(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    is_x86: bool,
    flags: str,
    lacks_one: bool,
    lacks_both: bool,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"model name\t: X\nflags\t\t: {flags}\n")

    assert is_x86_without("avx512_vnni", root=tmp_path) is (is_x86 and lacks_one)
    assert is_x86_without("avx512_vnni", "avx_vnni", root=tmp_path) is (is_x86 and lacks_both)


def test_a_system_that_does_not_list_the_instructions_counts_as_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    assert is_x86_without("avx512_vnni", root=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc/cpuinfo")
def test_of_this_cpu_torch_says_the_same() -> None:
    torch = pytest.importorskip("torch")
    if platform.machine() in ("x86_64", "AMD64"):
        assert is_x86_without("avx512_vnni") is not bool(torch.cpu._is_vnni_supported())
