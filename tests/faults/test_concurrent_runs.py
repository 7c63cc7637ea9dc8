"""Several at once that share a clone, a cache or an export."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from killing import OUTPUTS, WHOLE
from processes import kill_all, processes_below, processes_of, wait_until_ended
from repository import ROOT, Repository, Result
from samples import png

pytestmark = pytest.mark.faults
COST = 50


def run_together(repositories: list[Repository], command: list[str], pause: float) -> list[Result]:
    """Run a command in each, the later ones after a pause, and return how they ended."""
    with ExitStack() as stack:
        outputs = [stack.enter_context(TemporaryFile("w+")) for _ in repositories]
        started = []
        for repository, output in zip(repositories, outputs, strict=True):
            time.sleep(pause if started else 0)
            started.append(stack.enter_context(repository.running(*command, output=output)))
        results = []
        for process, output in zip(started, outputs, strict=True):
            status = process.wait(600)
            assert not wait_until_ended(lambda session=process.pid: processes_of(session))
            output.seek(0)
            results.append(Result(status, output.read()))
        return results


def require_one_line_each(results: list[Result]) -> None:
    """Require that who fails says why in one line, which names another process."""
    for result in results:
        assert "Traceback" not in result.output, result.output
        errors = [line for line in result.output.splitlines() if line.startswith("ERROR: ")]
        assert len(errors) == bool(result.status), result.output


def remove_outputs(repository: Repository) -> None:
    """Remove all that the pipeline wrote."""
    for path in (repository.path / name for name in OUTPUTS):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def two_runs_in_one_clone(random_: random.Random, repository: Repository) -> str:
    before = repository.contents(*WHOLE)
    command = ["dvc", "repro"]
    if random_.random() < 0.5:
        command.append("--force")
    else:
        shutil.rmtree(repository.path / ".dvc/cache")
        remove_outputs(repository)
    results = run_together([repository] * 2, command, random_.choice([0, random_.uniform(0, 20)]))
    require_one_line_each(results)
    if not all(result.status for result in results):
        assert repository.contents(*WHOLE) == before
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before
    return f"two runs in one clone: {sum(result.status != 0 for result in results)} in one line"


def two_clones_with_one_cache(random_: random.Random, repository: Repository) -> str:
    before = repository.contents(*WHOLE)
    cache = repository.path.parent / "cache"
    other = Repository(repository.path.parent / "another clone")
    repository.run("dvc", "config", "cache.dir", str(cache))
    repository.run("dvc", "config", "cache.type", random_.choice(["reflink,copy", "hardlink", "symlink"]))
    shutil.rmtree(repository.path / ".dvc/cache")
    remove_outputs(repository)
    shutil.copytree(repository.path, other.path, symlinks=True)
    both = [repository, other]
    results = run_together(both, ["dvc", "repro"], random_.choice([0, random_.uniform(0, 10)]))
    require_one_line_each(results)
    for one in both:
        one.run("dvc", "repro")
        assert one.contents(*WHOLE) == before
    return f"two clones with one cache: {sum(result.status != 0 for result in results)} in one line"


def a_queue_beside_the_workspace(random_: random.Random, repository: Repository) -> str:
    before = repository.contents(*WHOLE)
    repository.run("dvc", "exp", "run", "--queue", "--force", "-n", "queued", "-S", "run.checkpoint_every=9")
    try:
        repository.run("dvc", "queue", "start")
        time.sleep(random_.uniform(0, 8))
        beside = repository.try_run("dvc", "repro", "--force")
        require_one_line_each([beside])
        end = time.monotonic() + 300
        while not (state := _state(repository)) and time.monotonic() < end:
            time.sleep(0.5)
    finally:
        repository.try_run("dvc", "queue", "stop", "--kill")
        left = wait_until_ended(lambda: processes_below(repository.path), 30)
        kill_all(left)
    assert state == "Success", repository.try_run("dvc", "queue", "logs", "queued").output
    assert not left
    ref = repository.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/queued").output.strip()
    for file in ("dvc.lock", "metrics/evaluate.json"):
        assert repository.run("git", "show", f"{ref}:{file}").output.encode() == before[file], (
            "as without the workspace"
        )
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before
    return f"a queue beside the workspace: {int(beside.status != 0)} in one line"


def _state(repository: Repository) -> str:
    """Return how the queued experiment has ended, or nothing."""
    status = repository.run("dvc", "queue", "status").output
    return next((state for state in ("Success", "Failed") if state in status), "")


def test_concurrent_runs(
    random_: random.Random, record_property: Callable[[str, object], None], repository: Repository
) -> None:
    together = random_.choice([a_queue_beside_the_workspace, two_clones_with_one_cache, two_runs_in_one_clone])
    record_property("outcome", together(random_, repository))
    shutil.rmtree(repository.path)


def test_concurrent_predictions(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
    export: Path,
    tmp_path: Path,
) -> None:
    many = max(4, min(50, request.config.getoption("--tries", 10) // 20))
    images = [tmp_path / f"{number}.png" for number in range(random_.randrange(1, 9))]
    for number, image in enumerate(images):
        image.write_bytes(png(number))
    before = {file: file.read_bytes() for file in export.iterdir()}
    command = [sys.executable, "-m", "ptqflow.cli", "predict", export, *images]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(many)
    ]
    ends = [(*process.communicate(timeout=300), process.returncode) for process in started]

    assert len(set(ends)) == 1
    printed, errors, status = ends[0]
    assert (errors, status) == (b"", 0)
    assert printed.count(b"\n") == len(images)
    assert {file: file.read_bytes() for file in export.iterdir()} == before
    record_property("outcome", f"{many} at once, equal lines")
