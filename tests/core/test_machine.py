import os
import subprocess
import sys

import pytest

from ptqflow.benchmark.grid import pinned_threads
from ptqflow.core.errors import BenchmarkError
from ptqflow.core.machine import cpu_model, describe_machine, instructions, usable_cores

X86 = "processor\t: 0\nmodel name\t: AMD EPYC: the 9th\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_model_and_instructions_are_those_of_the_first_core() -> None:
    assert cpu_model(X86) == "AMD EPYC: the 9th"
    assert instructions(X86) == ["avx2", "avx512f", "avx512_vnni"]
    assert instructions(ARM) == ["asimddp", "i8mm"]


def test_a_cpu_without_a_name_is_reported_by_its_architecture() -> None:
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


def test_this_machine_is_described() -> None:
    machine = describe_machine(1)
    assert machine["threads"] == 1
    assert machine["cpu"]
    assert machine["cores"] >= 1
