import json
import subprocess
from pathlib import Path

import pytest
from finished_run import write_benchmark, write_run
from repository import ROOT
from ruamel.yaml import YAML

from ptqflow import cli
from ptqflow.core.errors import ArtifactError
from ptqflow.current_report import describe_clone

LOCK = YAML(typ="safe").load(ROOT / "dvc.lock")


def git(*command: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    result = subprocess.run(["git", *identity, *command], check=True, capture_output=True, text=True)
    return result.stdout.strip()


def commit(message: str) -> str:
    git("add", "--all")
    git("commit", "-qm", message, "--date", "2026-01-02T03:04:05Z")
    return git("rev-parse", "--short", "HEAD")


def record(
    report: str, *, data: str = "d1", drop: float = 0.0, max_drop: float | None = None, code: str = "c1"
) -> None:
    """Write the dvc.lock of this repository with other hashes and params, and the figure that goes with it."""
    stages = json.loads(json.dumps(LOCK["stages"]))
    stages["report"]["outs"][0]["md5"] = report
    stages["fetch"]["outs"][0]["md5"] = data
    for stage in ("convert", "export"):  # both list the section
        stages[stage]["params"]["params.yaml"]["convert"]["max_drop"] = max_drop
    for dep in (dep for stage in stages.values() for dep in stage["deps"]):
        dep["md5"] = {"src/ptqflow/convert": code, "data/dataset": data}.get(dep["path"], dep["md5"])
    YAML().dump({"stages": stages}, Path("dvc.lock"))
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/evaluate.json").write_text(json.dumps({"drop": drop, "p": 1.0}))


@pytest.fixture
def _repository() -> None:
    git("init", "-qb", "trunk")
    record("r1")
    commit("first")


pytestmark = pytest.mark.usefixtures("_repository")


def test_commit_branch_and_the_date_of_the_data_are_those_of_git() -> None:
    record("r2", data="d2")
    of_data = commit("other data")
    record("r3", data="d2")
    head = commit("a subject, with a comma")
    facts = describe_clone().facts
    assert facts["Commit"].startswith(f"{head}, ")
    assert facts["Commit"].endswith(", a subject, with a comma")
    assert facts["Branch"] == "trunk"
    assert facts["Data"].endswith(f", commit {of_data}")
    git("checkout", "-q", "--detach")
    assert describe_clone().facts["Branch"] == "none: HEAD is detached"


def test_what_is_not_committed_is_said() -> None:
    record("r2", data="d2")
    facts = describe_clone().facts
    assert facts["Commit"].endswith("; with changes that are not committed")
    assert facts["Data"] == "in no commit yet"


def test_changes_are_since_the_newest_commit_with_another_report() -> None:
    record("r2", drop=0.01, max_drop=0.5)
    before = commit("second")
    record("r3", drop=0.0025, max_drop=0.3, code="c2")
    for i in range(2):  # committing the results, and then something else, changes no report
        changes = describe_clone().changes
        assert changes
        assert changes.since.startswith(f"The last report with other content is that of commit {before} (")
        assert changes.params == {"convert.max_drop": (0.5, 0.3)}
        assert changes.inputs == ["src/ptqflow/convert"]
        assert changes.figures == {"drop": (0.01, 0.0025)}
        Path("note").write_text(str(i))
        commit("third")


def test_the_first_report_has_none_before_it() -> None:
    assert describe_clone().changes is None


def test_a_key_that_is_new_was_nothing_before() -> None:
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    lock["stages"]["report"]["outs"][0]["md5"] = "r2"
    lock["stages"]["convert"]["params"]["params.yaml"]["convert"]["new"] = {"key": 1}
    YAML().dump(lock, Path("dvc.lock"))
    changes = describe_clone().changes
    assert changes
    assert changes.params == {"convert.new.key": (None, 1)}


def test_without_git_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    Path(".git").rename("hidden")
    clone = describe_clone()
    assert clone.facts == {"Commit": "none: the results are in no git repository, or in one without a commit"}
    assert clone.changes is None


@pytest.mark.parametrize("content", ["stages: [", "- a list", "a string"])
def test_a_damaged_lock_is_one_line(content: str) -> None:
    Path("dvc.lock").write_text(content)
    with pytest.raises(ArtifactError, match=r"^dvc\.lock is damaged: restore it"):
        describe_clone()


def test_the_command_writes_the_page_with_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(images=20)
    write_benchmark()
    assert cli.run(["report", "-o", "out/page.html"]) == 0
    assert capsys.readouterr().out == "out/page.html\n"
    page = Path("out/page.html").read_text()
    for text in ("<dt>Branch</dt><dd>trunk</dd>", "<dt>Speed</dt><dd>250 images/s", "A &lt;fast&gt; CPU"):
        assert text in page


def test_before_sensitivity_has_run_on_the_network_the_page_names_no_layer() -> None:
    write_run(images=20)
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    for entry in (None, {"deps": [{"path": "models/int8", "md5": "of an earlier network", "size": 1}]}):
        lock["stages"] = {name: stage for name, stage in lock["stages"].items() if name != "sensitivity"}
        lock["stages"] |= {"sensitivity": entry} if entry else {}
        YAML().dump(lock, Path("dvc.lock"))
        assert cli.run(["report", "-o", "page.html"]) == 0
        page = Path("page.html").read_text()
        assert "<dt>Layers</dt><dd>not measured: run `dvc repro`" in page
        assert "Sensitivity of each module" not in page


def test_results_of_an_earlier_network_make_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(images=20)
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    lock["stages"]["export"]["deps"] = [{"path": "models/int8", "md5": "of an earlier network", "size": 1}]
    YAML().dump(lock, Path("dvc.lock"))
    assert cli.run(["report"]) == 1
    assert capsys.readouterr().err == (
        "ptqflow: `export` has not run on the network that lies here: run `dvc repro export`\n"
    )


def test_outside_a_project_the_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.lock").unlink()
    write_run(images=20)
    assert cli.run(["report"]) == 1
    assert capsys.readouterr().err == (
        "ptqflow: dvc.lock is missing: run this where it lies, in a repository in which `dvc repro` has run\n"
    )
    assert not Path("report.html").exists()
