"""A process that holds one network and times it when asked: `python -m ptqflow.benchmark.worker TASK`.

TASK is a `Task` as JSON. The process answers each line on stdin with a line of JSON on stdout and ends with its stdin
or its parent:

- first, unasked: {"versions"}, once the runtime is imported,
- `load`: {"load_s", "first_ms", "memory_mb", "form"}, once it is loaded and warm,
- `round MS`: {"ms": [...]}, the duration of runs that last MS in all,
- `profile`: {"seconds": {operation: ...}}.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptqflow.benchmark.timed_runtimes import Loaded, Run, Task, import_runtime
from ptqflow.core.errors import PtqflowError, one_line
from ptqflow.core.stage import die_with_parent

PLAIN = "plain"
WARM_UP_RUNS, WARM_UP_SECONDS = 3, 0.1
ROUND_ALONE_MS = 20.0


def main() -> None:
    """Answer what is asked until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent("benchmark")
    # What a library prints must not reach the parent among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        serve(Task(**json.loads(sys.argv[1])), lambda answer: print(json.dumps(answer), file=answers))
    except PtqflowError as error:
        sys.exit(one_line(error))


def serve(task: Task, answer: Callable[[dict[str, Any]], None]) -> None:
    """Import, then read and answer."""
    load, versions = import_runtime(task)
    answer({"versions": versions})
    sys.stdin.readline()
    started = time.perf_counter()
    loaded = load()
    load_s = time.perf_counter() - started
    first_ms = _milliseconds(loaded.run)
    estimate = warm_up(loaded.run)
    memory = peak_memory()
    form, run, estimate = fastest_form(loaded, estimate)
    answer({"load_s": load_s, "first_ms": first_ms, "memory_mb": memory / 1e6, "form": form})
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "round":
            answer({"ms": time_round(run, float(arguments[0]), estimate)})
        else:
            answer({"seconds": loaded.profile()})


def warm_up(run: Run) -> float:
    """Run at least 3 times and 0.1 s; return the milliseconds of the shortest run."""
    end = time.perf_counter() + WARM_UP_SECONDS
    durations: list[float] = []
    while len(durations) < WARM_UP_RUNS or time.perf_counter() < end:
        durations.append(_milliseconds(run))
    return min(durations)


def fastest_form(loaded: Loaded, plain_ms: float) -> tuple[str, Run, float]:
    """Try the other ways to run the network; return the fastest, warm, with its milliseconds."""
    best = (PLAIN, loaded.run, plain_ms)
    for name, make in loaded.forms.items():
        try:
            run = make()
            duration = warm_up(run)
        except RuntimeError:  # such as oneDNN's, for adaptive pooling to a size that does not divide the input's
            continue
        if duration < best[2]:
            best = (name, run, duration)
    return best


def time_round(run: Run, round_ms: float, estimate_ms: float) -> list[float]:
    """Return the milliseconds of as many runs as fit in `round_ms`, one at least.

    Where a run is short, another goes first that is not counted: the process that computed before has left its own
    weights in the CPU's cache.
    """
    if estimate_ms < ROUND_ALONE_MS:
        run()
    return [_milliseconds(run) for _ in range(max(1, int(round_ms / estimate_ms)))]


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held: Python, the runtime's libraries and the network."""
    if sys.platform == "linux":
        # ru_maxrss starts at what the parent had: it is kept across fork and exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _milliseconds(run: Run) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
