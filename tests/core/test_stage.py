"""How a stage script ends, in real processes with real signals."""

import ctypes
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
PYTHON = (sys.executable, "-c")
SHELL_WITH_PYTHON_BELOW = ("sh", "-c", f'"{sys.executable}" -c "$0" & wait')
SHELL_THAT_ENDS_BEFORE_ITS_PYTHON = ("sh", "-c", f'"{sys.executable}" -c "$0" $$ &')
WAIT_UNTIL_THE_SHELL_HAS_ENDED = "import os, sys, time\nwhile os.getppid() == int(sys.argv[1]): time.sleep(0.01)\n"


def start(
    body: str, command: tuple[str, ...] = PYTHON, before: str = "", environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Run `body` as the main function of a stage, in a process group of its own."""
    main = "def main():\n" + textwrap.indent(body, "    ")
    return subprocess.Popen(
        [*command, f"{before}from ptqflow.core.stage import run\n{main}\nrun('calib', main)\n"],
        env={"PYTHONPATH": str(SOURCE)} | (environment or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_until_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_a_users_mistake_is_one_line_and_status_1() -> None:
    process = start("from ptqflow.core.errors import DataError\nraise DataError('no images\\n  in photos')")
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (1, "", "calib: no images in photos\n")


def test_a_rank_that_is_done_ends_before_what_aborts_a_finalized_interpreter() -> None:
    body = "import atexit, os\natexit.register(os.abort)\nprint('epoch 1')\nreturn 'trained'"
    process = start(body, environment={"TORCHELASTIC_RUN_ID": "none"})
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert re.fullmatch(r"epoch 1\ncalib: trained \(\d+\.\d s\)\n", output)


def test_a_full_disk_is_one_line_with_the_remedy() -> None:
    process = start("with open('/dev/full', 'wb', buffering=0) as file:\n    file.write(b'x')")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == "calib: No space left on device; free some space and run `dvc repro` again\n"


def test_a_missing_file_is_named() -> None:
    process = start("open('nowhere')")
    _, errors = process.communicate()
    assert (process.returncode, errors) == (1, "calib: No such file or directory: nowhere\n")


def test_an_error_without_a_number_keeps_its_text() -> None:
    _, errors = start("raise OSError('the stream is cut')").communicate()
    assert errors == "calib: the stream is cut\n"


def test_a_bug_keeps_its_traceback() -> None:
    process = start("raise KeyError('bug')")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in errors
    assert "KeyError: 'bug'" in errors


def test_what_a_stage_has_done_is_one_line_with_its_seconds() -> None:
    output, errors = start("return '320 images,\\n 32 tensors'").communicate()
    assert errors == ""
    assert re.fullmatch(r"calib: 320 images, 32 tensors \(\d\.\d s\)\n", output)


def test_a_stage_that_ends_well_prints_nothing_of_its_own() -> None:
    process = start("print('done')")
    assert process.communicate() == ("done\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("work", ["import time; time.sleep(60)", "sum(i for i in range(10**10))", "3 ** 10**8"])
def test_ctrl_c_ends_it_at_once_without_a_traceback(work: str) -> None:
    process = start(f"print('ready', flush=True)\n{work}")
    wait_until_ready(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)  # of the minute or more that the work takes
    assert (process.returncode, errors) == (-signal.SIGINT, "")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_its_parent() -> None:
    parent = start("import time\nprint('ready', flush=True)\ntime.sleep(60)", SHELL_WITH_PYTHON_BELOW)
    wait_until_ready(parent)
    parent.kill()
    parent.communicate(timeout=30)  # returns once nobody holds the pipes, which the stage does as long as it lives


def start_without_parent(**environment: str) -> "subprocess.Popen[str]":
    """Run a stage that first asks to die with its parent when that is gone."""
    return start(
        "print('ran')",
        SHELL_THAT_ENDS_BEFORE_ITS_PYTHON,
        WAIT_UNTIL_THE_SHELL_HAS_ENDED,
        environment,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_does_not_start_for_a_dvc_that_has_died_before_it_could_ask_to_die_with_it() -> None:
    output, errors = start_without_parent(DVC_STAGE="calib").communicate(timeout=30)
    assert (output, errors) == ("", "calib: the dvc that started it is gone; run `dvc repro` again\n")


def test_without_dvc_it_may_outlive_who_started_it() -> None:
    assert start_without_parent().communicate(timeout=30) == ("ran\n", "")


def test_with_a_dvc_that_lives_it_starts() -> None:
    process = start("print('ran')", SHELL_WITH_PYTHON_BELOW, environment={"DVC_STAGE": "calib"})
    assert process.communicate(timeout=30) == ("ran\n", "")


@pytest.mark.parametrize(("own", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")], ids=["by default", "own"])
def test_torch_starts_no_more_threads_than_a_cpu_quota_has_cores(own: dict[str, str], threads: str) -> None:
    before = (
        "import os\nfrom ptqflow.core import machine, stage\n"
        "os.cpu_count = lambda: 64\nos.sched_getaffinity = lambda _: range(64)\n"  # a host larger than this one
        "stage.cpu_quota = machine.cpu_quota = lambda *_: 1\n"
    )
    body = "import torch\nlimit = os.environ['OMP_NUM_THREADS']\nprint(limit, torch.get_num_threads() <= int(limit))"
    process = start(body, before=before, environment=own)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, f"{threads} True\n"), errors


@pytest.mark.parametrize(
    ("own", "spins"),
    [({}, 1000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "passive"}, 0)],
    ids=["by default", "own count", "own policy"],
)
def test_waiting_threads_of_torch_sleep_soon_unless_the_user_wants_otherwise(own: dict[str, str], spins: int) -> None:
    process = start("import torch", environment={"OMP_DISPLAY_ENV": "verbose"} | own)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    if "GOMP_SPINCOUNT" not in errors:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in errors


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone")
def test_memory_that_is_freed_is_not_cleared_again_by_the_kernel() -> None:
    script = """
import resource
import numpy as np
from ptqflow.core.stage import run

def main():
    for _ in range(20):
        np.ones(1 << 26, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

START
"""

    def faults(start: str) -> int:
        command = [sys.executable, "-c", script.replace("START", start)]
        return int(subprocess.check_output(command, env={"PYTHONPATH": str(SOURCE)}, text=True))

    assert faults("main()") > 2 * faults("run('stage', main)")
