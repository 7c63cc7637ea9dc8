"""The tutorials: their commands run, and print what the pages show."""

import re
from pathlib import Path

import pytest
from repository import ROOT
from tutorial import TUTORIALS, Finished, finish, prints, steps_of

NAMES = ["timm", "photos", "accuracy", "team", pytest.param("cluster", marks=pytest.mark.extra)]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for the tutorials that have run, shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "tutorials"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_tutorial_run_and_print_what_it_shows(name: str, scratch: Path) -> None:
    finished = finish(name, scratch)
    assert finished.status == 0, finished.printed[-1]
    steps = steps_of((TUTORIALS / f"{name}.md").read_text())
    assert len(finished.printed) == len(steps)
    for step, printed in zip(steps, finished.printed, strict=True):
        if step.shown is not None:
            assert prints(step.shown, printed), f"{step.script}\nprinted\n{printed}"


@pytest.mark.slow
def test_int8_has_lost_points_before_the_tutorial_and_no_longer_after_it(scratch: Path) -> None:
    losses = lost_points(finish("accuracy", scratch))
    assert losses[0] >= 2
    assert max(losses[1:]) < losses[0] / 2


def lost_points(finished: Finished) -> list[float]:
    """Return what the verdicts say that INT8 loses, in order."""
    verdicts = re.findall(r"(?:The (drop|gain) of ([\d.]+) points|no drop|Top-1 is equal)", "".join(finished.printed))
    return [{"drop": 1, "gain": -1, "": 0}[kind] * float(points or 0) for kind, points in verdicts]


def test_the_start_page_and_the_menu_have_every_tutorial() -> None:
    pages = sorted(f"tutorials/{page.name}" for page in TUTORIALS.glob("*.md"))
    for text in ((ROOT / "README.md").read_text(), (ROOT / "mkdocs.yml").read_text()):
        assert sorted(re.findall(r"tutorials/\w+\.md", text)) == pages


def test_every_block_of_a_tutorial_is_run_or_compared() -> None:
    for page in TUTORIALS.glob("*.md"):
        assert steps_of(page.read_text()), page.name
    with pytest.raises(ValueError, match="which is not run"):
        steps_of("```\ndvc repro\n```\n")


@pytest.mark.parametrize(
    ("shown", "same"),
    [
        ("top-1 97.50 % of 360\nend", True),
        ("top-1 1.00 % of 360\nend", True),
        ("top-1 … %…\nend", True),
        ("…\nend", True),
        ("top-1 97.50 % of 361\nend", False),
        ("top-5 97.50 % of 360\nend", False),
        ("top-1 97.50 % of 360", False),
        ("end", False),
    ],
)
def test_what_is_printed_is_compared_up_to_measured_numbers(shown: str, same: bool) -> None:
    assert prints(shown, "top-1 98.61 % of 360\nend\n") is same
