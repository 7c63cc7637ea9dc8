"""A link stands for a file of the user's."""

from pathlib import Path

import pytest

from ptqflow.core.inputs import CODE, DATA, WEIGHTS, given


@pytest.mark.parametrize("link", [DATA, WEIGHTS, CODE])
def test_a_link_is_given_and_a_plain_file_or_none_is_not(link: Path) -> None:
    assert given(link) is None
    link.parent.mkdir()
    link.write_text("null\n")
    assert given(link) is None
    link.unlink()
    link.symlink_to("/")
    assert given(link) == link


def test_a_link_to_nowhere_is_given_so_that_what_is_missing_is_reported() -> None:
    DATA.parent.mkdir()
    DATA.symlink_to("nowhere")
    assert given(DATA) == DATA
