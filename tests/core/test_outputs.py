"""Outputs are compared with dvc.lock."""

from pathlib import Path

import pytest

from ptqflow.core.errors import ArtifactError
from ptqflow.core.outputs import hash_output, read_outputs, require_intact_deps


def write_pipeline(**large: int) -> None:
    """Write a pipeline in which `second@a` reads the file and the directory that `first` wrote."""
    Path("folder/inner").mkdir(parents=True)
    for name in ("file", "folder/b", "folder/inner/a"):
        Path(name).write_text(name)
    Path("dvc.yaml").write_text(
        "stages: {first: {}, second: {foreach: [a], do: {deps: [file, folder, 'x/${item}', src]}}}\n"
    )
    outs = [f"{{path: {name}, md5: {hash_output(Path(name))}, size: {large.get(name, 5)}}}" for name in FILES]
    Path("dvc.lock").write_text(f"stages: {{first: {{outs: [{', '.join(outs)}]}}}}\n")


FILES = ("file", "folder")


@pytest.mark.parametrize(("path", "named"), [("file", "file"), ("folder/b", "folder"), ("folder/inner/a", "folder")])
@pytest.mark.parametrize("damage", ["changed", "emptied", "folder", "endless"])
def test_what_a_stage_reads_and_another_wrote_is_compared_before_it_starts(path: str, named: str, damage: str) -> None:
    write_pipeline()
    require_intact_deps("second@a")
    Path(path).write_text("" if damage == "emptied" else "x")
    if damage == "folder":
        Path(path).unlink()
        Path(path).mkdir()
    if damage == "endless":
        Path(path).unlink()
        Path(path).symlink_to("/dev/zero")
    with pytest.raises(ArtifactError) as caught:
        require_intact_deps("second@a")
    assert str(caught.value) == (
        f"{named} is not what `first` wrote: it is damaged; run `ptqflow repair`, then `dvc repro`"
    )


def test_an_added_and_a_missing_file_of_a_directory_are_found_and_a_missing_output_is_left_to_dvc() -> None:
    write_pipeline()
    Path("folder/new").touch()
    with pytest.raises(ArtifactError, match="folder is not what `first` wrote"):
        require_intact_deps("second@a")
    Path("folder/new").unlink()
    Path("folder/b").unlink()
    with pytest.raises(ArtifactError, match="folder is not what `first` wrote"):
        require_intact_deps("second@a")
    Path("folder/b").write_text("folder/b")
    Path("file").unlink()
    require_intact_deps("second@a")


def test_large_outputs_and_those_that_the_stage_does_not_read_are_not_compared() -> None:
    write_pipeline(folder=1 << 27)
    Path("folder/b").write_text("x")
    require_intact_deps("second@a")
    Path("file").write_text("x")
    require_intact_deps("first")
    require_intact_deps("")


def test_without_a_lock_there_is_nothing_to_compare_and_a_damaged_one_is_one_line() -> None:
    assert read_outputs(Path("dvc.lock")) == []
    require_intact_deps("second@a")
    for content in (
        "",
        "schema: '2.0'",
        "[",
        "stages: 3",
        "stages: {first: {outs: [{path: x}]}}",
        "stages: {first: 3}",
        "- a",
    ):
        Path("dvc.lock").write_text(content)
        with pytest.raises(ArtifactError, match=r"dvc\.lock is damaged: restore it with `git checkout dvc\.lock`"):
            read_outputs(Path("dvc.lock"))
