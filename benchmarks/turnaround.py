"""Seconds until a "what if" is answered: `dvc exp run` with another setting beside the whole script of a peer.

Experiments are `dvc exp run -S …` in a copy of the repository at FOLDER, whose pipeline has run, with its cache: to the
verdict (`evaluate`), and to the end. Beside them run the plain scripts for ONNX Runtime's quantizer and for NNCF.
All take turns; each turn has a setting that never ran before, so that nothing comes from the cache.
`python benchmarks/turnaround.py [FOLDER] [--rounds 3]`, in an environment with `.[pipeline,peers]`, on a quiet machine.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from ptqflow.core.machine import describe_machine, usable_cores

SCRIPT = Path(__file__).with_name("plain_script.py").resolve()
BOTH = "with FP32's accuracy"
TARGETS = {"another method, to the verdict": 2.2, "another method, to the end": 5.0}
"""Times the faster of the scripts that print FP32's accuracy, too, as the verdict does."""
SECONDS = {"no-op dvc repro": 1.0}
STARTED = re.compile(r"Running stage '(.+)'")


def main() -> None:
    """Print the medians, the seconds of each stage, and which targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    stages: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as scratch:
        clone = clone_with_cache(arguments.folder.resolve(), Path(scratch) / "clone")
        for turn in range(arguments.rounds):
            for name, run in runs(clone, turn).items():
                start = time.monotonic()
                stages[name] = run()
                found.setdefault(name, []).append(time.monotonic() - start)
    machine = describe_machine(usable_cores())
    print(f"{machine['cpu']}, {machine['cores']} cores; {arguments.rounds} rounds in turns: median (least to most)\n")
    print(describe(found, stages))


def clone_with_cache(folder: Path, clone: Path) -> Path:
    """Return a clone of a repository in the state of its workspace, with the cache of the original."""
    left_out = {folder: {".venv"}, folder / ".dvc": {"cache", "tmp"}}
    shutil.copytree(folder, clone, symlinks=True, ignore=lambda path, _: left_out.get(Path(path), set()))
    call(clone, "git", "add", "--all")
    call(clone, "git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--allow-empty", "--message=x")
    call(clone, "dvc", "cache", "dir", "--local", str(folder / ".dvc/cache"))
    call(clone, "dvc", "repro", "report")
    return clone


def runs(clone: Path, turn: int) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what is timed in a turn, each of which returns the seconds of its stages."""
    params = YAML(typ="safe").load(clone / "params.yaml")["calib"]
    batches, batch_size = params["batches"], params["batch_size"]

    def percentile(number: int) -> list[str]:
        value = 99.9 + (2 * turn + number + time.time() % 1) / 1000  # that never ran
        return ["-S", "convert.activation.method=percentile", "-S", f"convert.activation.percentile={value:.6f}"]

    def script(peer: str, *options: str) -> dict[str, float]:
        arguments = (peer, "models/export", "data/dataset", str(batches * batch_size), str(batch_size), *options)
        call(clone, sys.executable, str(SCRIPT), *arguments)
        return {}

    peers = ["MinMax", "Percentile"] + (["NNCF"] if find_spec("nncf") else [])
    seed = 1000 * (turn + 1) + int(time.time()) % 1000
    return {
        **{f"script, {peer}": lambda peer=peer: script(peer) for peer in peers},  # type: ignore[misc]
        **{f"script, {peer}, {BOTH}": lambda peer=peer: script(peer, "fp32") for peer in peers},  # type: ignore[misc]
        "another method, to the verdict": lambda: experiment(clone, *percentile(0), "evaluate"),
        "another method, to the end": lambda: experiment(clone, *percentile(1)),
        "other calibration images, to the end": lambda: experiment(clone, "-S", f"calib.seed={seed}"),
        "no-op dvc repro": lambda: repro(clone),
    }


def experiment(clone: Path, *arguments: str) -> dict[str, float]:
    """Run an experiment and return the seconds from the start of each stage to that of the next."""
    return timed(clone, "dvc", "exp", "run", *arguments)


def repro(clone: Path) -> dict[str, float]:
    """Run nothing: the second of two runs, of which only that counts, follows an experiment."""
    return timed(clone, "dvc", "repro", "report")


def timed(clone: Path, *command: str) -> dict[str, float]:
    """Run a command and return the seconds from each line that names a stage to the next, and to the end."""
    began: list[tuple[str, float]] = []
    with subprocess.Popen(
        command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        assert process.stdout
        output = []
        for line in process.stdout:
            output.append(line)
            if started := STARTED.match(line):
                began.append((started[1], time.monotonic()))
    if process.returncode:
        sys.exit("".join(output))
    ends = [*(start for _, start in began[1:]), time.monotonic()][: len(began)]
    return {stage: end - start for (stage, start), end in zip(began, ends, strict=True)}


def call(folder: Path, *command: str) -> None:
    """Run a command that must succeed."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stdout}{result.stderr}")


def describe(found: dict[str, list[float]], stages: dict[str, dict[str, float]]) -> str:
    """Return the table, and whether each target is reached."""
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    fastest = min(median for name, median in medians.items() if name.endswith(BOTH))
    lines = ["| what | s | times the fastest script | stages of the last round, s |", "|---|---|---|---|"]
    for name, seconds in found.items():
        spread = f"{medians[name]:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        of_stages = ", ".join(f"{stage} {took:.1f}" for stage, took in stages[name].items())
        lines.append(f"| {name} | {spread} | {medians[name] / fastest:.2f} | {of_stages} |")
    limits = {name: times * fastest for name, times in TARGETS.items()} | SECONDS
    for name, limit in limits.items():
        reached = "reached" if medians[name] <= limit else "missed"
        lines.append(f"\n{name}: {medians[name]:.1f} s, at most {limit:.1f} s: {reached}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
