"""A command of a repository that is signalled, and what must hold afterwards."""

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from processes import processes_of, wait_until_ended
from repository import Repository

OUTPUTS = ("data", "models", "report", "dvc.lock")
WHOLE = (*OUTPUTS, "metrics")
PTQFLOW = ("env", "PYTHONPATH=src", "python", "-m", "ptqflow.cli")
REPAIR = (*PTQFLOW, "repair")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGSTOP)


def signal_dvc(
    repository: Repository, command: list[str], random_: random.Random, wait: Callable[[int], None]
) -> tuple[str, int | None, str]:
    """Run dvc, and after `wait` send a signal to it, to all that it has started, to the innermost process or to all.

    A stopped run continues after a while, and must end well.

    Returns:
        The name of the signal, the exit status of dvc, and what was printed.
    """
    number = random_.choice(SIGNALS)
    with Path("output").open("w+") as output, repository.running(*command, output=output) as dvc:
        wait(dvc.pid)
        running = [*processes_of(dvc.pid)]
        victims = random_.choice([running, [dvc.pid], running[1:], running[-1:]])
        _send(victims, number)
        if number == signal.SIGSTOP:
            time.sleep(random_.uniform(0.1, 3))
            _send(victims, signal.SIGCONT)
            assert dvc.wait(300) == 0, f"{number.name}\n{Path('output').read_text()}"
        left = wait_until_ended(lambda: processes_of(dvc.pid), 300)  # dvc alone ignores SIGINT while a stage runs
        ended, printed = dvc.poll(), Path("output").read_text()
    assert not left, f"{number.name}\n{printed}"
    assert "Traceback" not in printed, f"{number.name}\n{printed}"
    return number.name, ended, printed


def _send(victims: Iterable[int], number: signal.Signals) -> None:
    for victim in victims:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(victim, number)


def require_equal_bytes_after_repro(repository: Repository, before: dict[str, bytes], changed: str, case: str) -> str:
    """Require that `dvc repro` ends with all bytes of an undisturbed run, and git sees no other change than before.

    Partial outputs of stages that it takes from the cache may stay; `ptqflow repair` removes them.

    Returns:
        What was done.
    """
    remedy = repro(repository, case)
    found = repository.contents(*WHOLE)
    partial = {name for name in found if re.search(r"(^|/)\.[^/]+\.partial(/|$)", name)}
    assert {name: content for name, content in found.items() if name not in partial} == before, case
    assert repository.run("git", "status", "--porcelain").output == changed, case
    if partial:
        repository.run(*REPAIR)
        assert repository.contents(*WHOLE) == before, case
    return "equal bytes after the next `dvc repro`" + " and `ptqflow repair`" * bool(partial) + remedy


def repro(repository: Repository, case: str) -> str:
    """Run `dvc repro`, where a file of DVC's own was cut off with the remedy that is printed; return this one."""
    result = repository.try_run("dvc", "repro")
    if not result.status:
        return ""
    assert "Traceback" not in result.output, f"{case}\n{result.output}"
    repaired = repository.try_run(*REPAIR)
    if "rwlock" in result.output:
        remedy = "`ptqflow repair`"
        assert "rwlock: a killed dvc left it unfinished" in repaired.output, f"{case}\n{result.output}"
    else:
        remedy = "`git checkout dvc.lock`"
        assert f"dvc.lock is damaged: restore it with {remedy}" in repaired.output, f"{case}\n{result.output}"
        repository.run("git", "checkout", "dvc.lock")
    repository.run("dvc", "repro")
    return f", after {remedy}"
