"""Which names are those of operating systems and network storage."""

import pytest

from ptqflow.fetch.system_files import system_name


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb", "~snapshot"),
        *("$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "Thumbs.db", "thumbs.db", "desktop.ini"),
        *("__MACOSX", ".DS_Store", ".Trashes", ".Spotlight-V100", ".fseventsd", ".AppleDouble", "Icon\r"),
        *("lost+found", ".Trash-1000", ".git", ".ipynb_checkpoints"),
    ],
)
def test_a_name_of_a_system_is_found_at_any_depth(name: str) -> None:
    assert system_name(name) == system_name(f"train/cat/{name}") == system_name(f"train/{name}/cat/0.png") == name


def test_the_files_beside_files_of_macos_have_one_name() -> None:
    assert system_name("train/cat/._0.png") == system_name("._cat") == "._*"


@pytest.mark.parametrize(
    "name",
    ["recycle", "Recycler", "snapshot", "tmp", "thumb", "@home", "#1", "$100", "__MACOSX2", "cat.", "lost", "_x"],
)
def test_a_class_may_have_a_name_that_only_resembles_one(name: str) -> None:
    assert system_name(f"train/{name}/0.png") is None
