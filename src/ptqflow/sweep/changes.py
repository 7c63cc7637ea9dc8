"""What a job has changed of the files that git tracks, dvc.lock and metrics, for the jobs that start from it.

DVC's run cache does not do it: it leaves the metrics of a stage out of what it pushes, and another host then finds the
stage's entry without all of its outputs, and runs it again.
"""

from collections.abc import Sequence
from pathlib import Path

from dvc.utils.serialize import dump_yaml, loads_yaml

from ptqflow.core.params import PARAMS_FILE
from ptqflow.sweep.clone import run_command

Changes = dict[str, bytes]
"""Contents of files, by their paths from the root of the repository."""

_LOCK = "dvc.lock"


def read_changes(clone: Path) -> Changes:
    """Return the files of a clone that differ from its commit, but for the params."""
    listed = run_command(["git", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"], clone)
    paths = [entry[3:] for entry in listed.split("\0") if entry]
    return {
        path: (clone / path).read_bytes() for path in paths if path != PARAMS_FILE.name and (clone / path).is_file()
    }


def apply_changes(clone: Path, several: Sequence[Changes]) -> None:
    """Write what other clones of the commit have changed, so that their stages are up to date in this one.

    A file that several have changed belongs to a stage that they share, and has the same content in all of them, but
    for dvc.lock, which has an entry for each stage.
    """
    for path in sorted({path for changes in several for path in changes}):
        versions = [changes[path] for changes in several if path in changes]
        target = clone / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name == _LOCK:
            _merge_locks(target, versions)
        else:
            target.write_bytes(versions[0])


def _merge_locks(file: Path, versions: Sequence[bytes]) -> None:
    """Replace the entries of the stages that some version has changed."""
    merged = loads_yaml(file.read_text(encoding="utf-8")) if file.exists() else {}
    committed = dict(merged.get("stages", {}))
    for version in versions:
        lock = loads_yaml(version.decode())
        changed = {stage: entry for stage, entry in lock["stages"].items() if entry != committed.get(stage)}
        merged = lock | {"stages": merged.get("stages", {}) | changed}
    dump_yaml(file, merged)
