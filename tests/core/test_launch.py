"""What is decided before ranks start, and how their end is reported; real ranks are in tests/train/test_ranks.py."""

import json
import signal
import socket
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from ptqflow.core.errors import LaunchError
from ptqflow.core.launch import _describe, run_in_ranks

TRACEBACK = "Traceback (most recent call last):\n  …\nRuntimeError: Connection closed by peer\n"


def failed(folder: Path, *ends: tuple[int, str | None]) -> ChildFailedError:
    """Return what torch's agent raises for ranks that ended with this exit code, and this message in their file."""
    failures = {}
    for rank, (exitcode, message) in enumerate(ends):
        file = folder / f"{rank}.json"
        if message:
            file.write_text(json.dumps({"message": message, "timestamp": "1764000000"}))
        failures[rank] = ProcessFailure(local_rank=rank, pid=1000 + rank, exitcode=exitcode, error_file=str(file))
    return ChildFailedError("train", failures)


def test_one_process_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_in_ranks(1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "ptqflow")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert not run_in_ranks(4, 2), "a rank does the work itself"


def test_torchrun_must_start_as_many_ranks_as_the_params_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1234")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(LaunchError, match=r"torchrun has started 3 ranks, params\.yaml asks for 1 on each of 1 hosts"):
        run_in_ranks(1)


@pytest.mark.parametrize("rank", ["2", "-1", "first", ""])
def test_a_host_needs_a_number_below_that_of_hosts(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("NODE_RANK", rank)
    with pytest.raises(LaunchError, match=rf"NODE_RANK is '{rank}'; it is 0 on the first of 2 hosts and 1 on the last"):
        run_in_ranks(1, 2)


def test_a_port_that_is_taken_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.delenv("NODE_RANK", raising=False)
        with pytest.raises(LaunchError, match=r"the rendezvous at 127\.0\.0\.1:\d+ failed: .*EADDRINUSE"):
            run_in_ranks(1, 2)


def test_several_hosts_need_a_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(LaunchError, match="2 hosts need a rendezvous: on each of them set MASTER_ADDR"):
        run_in_ranks(1, 2)


def test_of_a_killed_rank_and_those_it_took_along_the_killed_one_is_reported(tmp_path: Path) -> None:
    error = failed(tmp_path, (1, TRACEBACK), (-signal.SIGKILL, None), (-signal.SIGTERM, None))
    assert _describe(error) == "rank 1 was ended by SIGKILL, and the others with it; run `dvc repro` again"


def test_of_a_mistake_and_its_consequences_the_mistake_is_reported(tmp_path: Path) -> None:
    error = failed(tmp_path, (-signal.SIGTERM, None), (1, TRACEBACK), (1, "no images in photos"))
    assert _describe(error) == "no images in photos"


def test_an_exit_without_a_message_is_reported_with_its_status(tmp_path: Path) -> None:
    error = failed(tmp_path, (-signal.SIGTERM, None), (7, None))
    assert _describe(error) == "rank 1 ended with status 7 and left no message, and the others were ended with it"


def test_a_signal_without_a_name_is_reported_by_its_number(tmp_path: Path) -> None:
    error = failed(tmp_path, (-40, None), (-signal.SIGTERM, None))
    assert _describe(error) == "rank 0 was ended by signal 40, and the others with it; run `dvc repro` again"


def test_a_bug_is_reported_with_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = failed(tmp_path, (1, TRACEBACK), (-signal.SIGTERM, None))
    assert _describe(error) == "rank 0 failed, and the others with it"
    assert capsys.readouterr().err == TRACEBACK


def test_ranks_that_were_all_asked_to_end_are_reported_as_such(tmp_path: Path) -> None:
    error = failed(tmp_path, (-signal.SIGTERM, None), (-signal.SIGTERM, None))
    assert _describe(error).startswith("rank 0 was ended by SIGTERM")
