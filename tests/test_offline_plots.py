import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from repository import ROOT, Repository, copy_tracked

from ptqflow.offline_plots import TEMPLATE, make_template

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SETTING = ("dvc", "config", "plots.html_template")


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    """A repository that nothing was set up in, with the committed plots."""
    repository = Repository(tmp_path / "a clone")
    copy_tracked(repository.path)
    repository.run("git", "init", "-qb", "main")
    repository.commit("as cloned")
    return repository


def set_up(clone: Repository) -> None:
    clone.run("env", "PYTHONPATH=src", "python", "-m", "ptqflow.offline_plots")


def test_the_template_is_whole_and_takes_the_plots_once() -> None:
    template = make_template()
    assert template.count("{plot_divs}") == template.count("{refresh_tag}") == 1
    assert "{scripts}" not in template  # where DVC would put the addresses of a server
    assert template.count("<script>") == template.count("</script>") == 2
    assert not re.search(r"<(script|link)[^>]*(src|href)=\"(?!data:)", template)


def test_setting_it_up_leaves_nothing_for_git_and_can_be_repeated(clone: Repository) -> None:
    set_up(clone)
    first = clone.contents(".dvc/config.local", str(TEMPLATE))
    set_up(clone)
    assert clone.contents(".dvc/config.local", str(TEMPLATE)) == first
    assert clone.run(*SETTING).output == "plots/offline.html\n"
    assert clone.run("git", "status", "--porcelain").output == ""


def test_templates_have_the_color_that_dvc_chooses_for_each_revision() -> None:
    colored = {file.name: file.read_text() for file in (ROOT / ".dvc/plots").glob("*.json")}
    with_bars = {name for name, text in colored.items() if name != "confusion_counts.json"}  # its color is a count
    assert len(with_bars) == 4
    for name in with_bars:
        assert '"color": "<DVC_METRIC_COLOR>"' in colored[name], name
        assert '"color": {"field": "rev"' not in colored[name], name


@pytest.mark.browser
def test_plots_of_dvc_open_without_a_network_once_that_is_set_up(clone: Repository, browser: "Browser") -> None:
    from browsing import opened

    clone.run("dvc", "plots", "diff")
    assert "https://cdn" in clone.read("dvc_plots/index.html")  # without it, DVC does what it always does
    set_up(clone)
    clone.run("dvc", "plots", "diff")
    with opened(browser, clone.path / "dvc_plots/index.html") as page:
        drawn_first = page.evaluate("[...document.querySelectorAll('main > div[id]')].map(div => div.id)")[:9]
        assert drawn_first[0] == "metrics_plots_classes_csv"  # INT8 against FP32
        assert drawn_first[-1] == "metrics_plots_sensitivity_csv"
        committed = sorted((clone.path / "metrics/plots").glob("*.csv"))
        drawn = [file for file in committed if file.read_text().count("\n") > 1]  # without rows there is no chart
        names = ["Loss", *(f"metrics_plots_{file.stem}_csv" for file in drawn)]
        assert len(names) > 8
        for name in names:
            box = page.locator(f"#{name} .chart-wrapper > svg").bounding_box()
            assert box, name
            assert box["width"] > 200, name
            assert box["height"] > 100, name
