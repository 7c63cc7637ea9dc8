"""What `ptqflow repair` removes, with the real dvc, its cache and its kinds of links."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from repository import ROOT, Repository

pytestmark = pytest.mark.slow

WHOLE = ("dvc.lock", "data", "models", "metrics", "report")


def cached(repository: Repository, name: str) -> Path:
    """Return the object of DVC's cache that holds a file."""
    digest = hashlib.md5((repository.path / name).read_bytes()).hexdigest()
    return repository.path / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def flip(file: Path) -> None:
    """Flip a bit and leave size, times and mode, as a bad disk does."""
    status = file.stat()
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as opened:  # not a new file: other links see it
        opened.write(content)
    file.chmod(status.st_mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def ptqflow(repository: Repository, command: str) -> str:
    return repository.run("env", "PYTHONPATH=src", "python", "-m", "ptqflow.cli", command).output


@pytest.mark.parametrize(
    ("links", "name"),
    [
        pytest.param("copy", "data/dataset/train_images.npy", marks=pytest.mark.extra),
        pytest.param("hardlink", "models/fp32/card.json", marks=pytest.mark.extra),
        ("symlink", "models/fp32/weights.safetensors"),
    ],
)
def test_a_damaged_object_of_the_cache_is_made_again_where_dvc_alone_restores_it_damaged(
    repository: Repository, links: str, name: str
) -> None:
    repository.run("dvc", "config", "cache.type", links)
    repository.run("dvc", "checkout", "--relink")
    before = repository.contents(*WHOLE)
    flip(cached(repository, name))
    if links == "copy":
        flip(repository.path / name)
    repository.set_params({"calib": {"seed": 5}})
    for _ in range(2):
        result = repository.try_run("dvc", "repro")
        assert result.status != 0, result.output
        assert "run `ptqflow repair`, then `dvc repro`" in result.output
        assert "Traceback" not in result.output

    assert "2 removed; `dvc repro` makes them again" in ptqflow(repository, "repair")

    repository.run("dvc", "repro")
    repository.set_params({"calib": {"seed": 0}})
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before
    assert ptqflow(repository, "repair") == "nothing is damaged\n"


@pytest.mark.parametrize(
    "name", ["metrics/plots/sensitivity.csv", "data/predictions/figures.json", "models/export/model.json"]
)
def test_a_bit_that_changes_a_figure_stops_the_stage_that_reads_it(repository: Repository, name: str) -> None:
    before = repository.contents(*WHOLE)
    flip(repository.path / name)
    repository.run("rm", "-r", "report", ".dvc/cache/runs")

    result = repository.try_run("dvc", "repro", "--force", "--single-item", "report")

    assert result.status != 0
    assert [line for line in result.output.splitlines() if line.startswith("report:")] == [
        f"report: {name if name.endswith('csv') else name.rpartition('/')[0]} is not what "
        f"`{'sensitivity' if name.endswith('csv') else 'evaluate' if 'predictions' in name else 'export'}` wrote: "
        "it is damaged; run `ptqflow repair`, then `dvc repro`"
    ]
    ptqflow(repository, "repair")
    repository.run("dvc", "repro")
    assert repository.contents(*WHOLE) == before


def test_what_a_killed_run_left_beside_outputs_is_removed(repository: Repository) -> None:
    partial = repository.path / "data/.dataset.partial"
    partial.mkdir()
    (partial / "train_images.npy").write_bytes(bytes(1000))
    assert ptqflow(repository, "repair") == (
        "data/.dataset.partial: a killed run left it\n1 removed; `dvc repro` makes them again\n"
    )
    assert not partial.exists()


def test_what_is_no_file_among_the_objects_of_the_cache_is_removed(tmp_path: Path) -> None:
    project = Repository(tmp_path / "project")
    project.path.mkdir()
    project.run("dvc", "init", "--no-scm")
    (project.path / "sound").write_text("sound")
    project.run("dvc", "add", "-q", "sound")
    objects = cached(project, "sound").parent
    (objects / "0").mkdir()
    (objects / "1").symlink_to("/dev/zero")
    (objects / "2").symlink_to("nowhere")

    repaired = project.run("env", f"PYTHONPATH={ROOT}/src", "python", "-m", "ptqflow.cli", "repair").output

    assert repaired.count(": it is no file\n") == 3
    assert [*objects.iterdir()] == [cached(project, "sound")]


def test_without_room_for_the_databases_of_dvc_it_is_one_line(tmp_path: Path, small_disk: Path) -> None:
    project = Repository(tmp_path / "project")
    project.path.mkdir()
    project.run("dvc", "init", "--no-scm")
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    settings = ("env", f"PYTHONPATH={ROOT}/src", f"DVC_SITE_CACHE_DIR={small_disk}")

    result = project.try_run(*settings, "python", "-m", "ptqflow.cli", "repair")

    assert result.status == 1
    assert re.fullmatch(
        r"ptqflow: DVC cannot open its database: .*; free some space if the disk is full\n", result.output
    ), result.output


def test_where_no_project_is_or_dvc_is_running_it_is_one_line(repository: Repository) -> None:
    command = ("env", f"PYTHONPATH={repository.path}/src", "python", "-m", "ptqflow.cli", "repair")
    elsewhere = Repository(repository.path.parent).try_run(*command)
    assert elsewhere.status == 1
    assert elsewhere.output.startswith("ptqflow: this is not the root of a DVC project: ")
    script = (
        "import time\nfrom dvc.repo import Repo\nwith Repo('.').lock:\n print('locked', flush=True)\n time.sleep(99)"
    )
    with Path("output").open("w+") as output, repository.running("python", "-c", script, output=output):
        while "locked" not in Path("output").read_text():
            pass
        busy = repository.try_run(*command)
    assert (busy.status, busy.output) == (
        1,
        "ptqflow: dvc is running in this repository; run it again when that has ended\n",
    )


def test_a_list_of_outputs_in_use_that_a_killed_dvc_cut_off_is_removed(repository: Repository) -> None:
    (repository.path / ".dvc/tmp/rwlock").write_text('{"read": {')
    result = repository.try_run("dvc", "repro")
    assert result.status != 0
    assert "rwlock" in result.output

    assert ".dvc/tmp/rwlock: a killed dvc left it unfinished" in ptqflow(repository, "repair")

    assert repository.run("dvc", "repro").ran == []
