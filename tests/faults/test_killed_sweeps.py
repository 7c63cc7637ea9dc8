"""`ptqflow sweep`, killed at any moment, and continued by the same command."""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import kill_all, processes_below, wait_until_ended
from ray_cluster import sweep_command
from repository import Repository
from sweeping import make_project

pytestmark = pytest.mark.faults
COST, FEWEST = 100, 0
FILES = ("params.yaml", "dvc.lock", "data.json", "calib.json", "convert.json")
GRID = ("-S", "calib.batches=1,3", "-S", "convert.activation.method=mse,minmax")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def experiments(repository: Repository) -> dict[tuple[str, ...], str]:
    """Return git's hashes of what each experiment wrote, by the values of the grid."""
    written = {}
    for ref in repository.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/sweep-*").output.split():
        params = repository.run("git", "show", f"{ref}:params.yaml").output
        values = tuple(re.findall(r"^(?:  batches|    method): (\w+)", params, re.MULTILINE)[:2])
        assert values not in written, "each experiment is there once"
        written[values] = repository.run("git", "ls-tree", ref, "--", *FILES).output
    return written


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], str]:
    """The experiments of a sweep that nothing disturbs."""
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project")
    project.run(*sweep_command(project.path, *GRID))
    return experiments(project)


def test_killed_sweeps(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    undisturbed: dict[tuple[str, ...], str],
    tmp_path: Path,
) -> None:
    repository = make_project(tmp_path / "swept" / "project")
    command, number = sweep_command(repository.path, *GRID), random_.choice(SIGNALS)
    try:
        with Path("output").open("w+") as output, repository.running(*command, output=output) as sweep:
            time.sleep(random_.uniform(1, 25))
            sweep.send_signal(number)
            sweep.wait(60)
            left = wait_until_ended(lambda: processes_below(tmp_path / "swept"))
    finally:
        kill_all(processes_below(tmp_path / "swept"))
    printed, case = Path("output").read_text(), f"{number.name}, after which {len(experiments(repository))} are there"
    assert not left, f"{case}\n{printed}"
    assert "Traceback" not in printed, f"{case}\n{printed}"
    assert experiments(repository).items() <= undisturbed.items(), case
    again = repository.try_run(*command)
    assert again.status == 0, f"{case}\n{again.output}"
    assert experiments(repository) == undisturbed, case
    record_property("outcome", "the same command ran the rest" if sweep.returncode else "had ended")
    shutil.rmtree(repository.path)
