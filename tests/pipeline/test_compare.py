"""Two revisions image by image, with real git and real DVC."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT, Repository

from ptqflow.compare import fetch_predictions
from ptqflow.core.errors import ArtifactError
from ptqflow.evaluate.predictions import Predictions, load_predictions

pytestmark = pytest.mark.slow

EVALUATE = f"""
import sys
from pathlib import Path

import numpy as np

sys.path.append({str(ROOT / "tests")!r})
from evaluation import evaluation_figures
from ptqflow.data.logits import NETWORKS
from ptqflow.evaluate.predictions import PredictionsCard, predict, save_predictions

draws, labels = np.random.default_rng(int(Path("seed").read_text())), np.arange(60) % 3
networks = {{name: predict(draws.normal(size=(60, 3)) + np.eye(3)[labels]) for name in NETWORKS}}
card = PredictionsCard(classes=("ant", "bee", "cat"), test_sha256="0")
save_predictions(Path("data/predictions"), networks, labels, card, evaluation_figures())
"""

PIPELINE = """
stages:
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, seed]
    outs: [data/predictions]
"""


@dataclass(frozen=True)
class Project(Repository):
    """A DVC project whose only stage writes predictions that depend on a seed; `path` is its root."""

    @property
    def outside(self) -> Path:
        """A folder beside the git repository with the predictions of each tag."""
        return next(parent for parent in self.path.parents if (parent / "kept").is_dir())

    def write_pipeline(self) -> None:
        (self.path / "evaluate.py").write_text(EVALUATE)
        (self.path / "dvc.yaml").write_text(PIPELINE)
        (self.path / "seed").write_text("0")

    def evaluate(self, seed: int, tag: str) -> None:
        """Reproduce with a seed, commit and tag, and keep a copy of the predictions."""
        (self.path / "seed").write_text(str(seed))
        self.run("dvc", "repro", "-q")
        self.commit(tag)
        self.run("git", "tag", tag)
        shutil.copytree(self.path / "data/predictions", self.outside / "kept" / tag)

    def kept(self, tag: str) -> Predictions:
        return load_predictions(self.outside / "kept" / tag)

    def push_to(self, remote: str) -> None:
        """Commit a default remote, a path relative to this folder, and push to it."""
        self.run("dvc", "remote", "add", "-q", "-d", "store", remote)
        self.commit("remote")
        self.run("dvc", "push", "-q")

    def cached_objects(self) -> list[Path]:
        return [path for path in (self.path / ".dvc/cache").rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project of three commits, the first without predictions, and an experiment on the last."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "kept").mkdir()
    project = Project(folder / "a clone")
    project.path.mkdir()
    project.run("git", "init", "-qb", "main")
    project.run("dvc", "init", "-q")
    project.write_pipeline()
    project.commit("not evaluated")
    project.run("git", "tag", "not-evaluated")
    project.evaluate(1, "one")
    project.evaluate(2, "two")
    (project.path / "seed").write_text("3")
    project.run("dvc", "exp", "run", "-q", "-n", "a-trial")
    shutil.copytree(project.path / "data/predictions", folder / "kept" / "a-trial")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q")
    return folder


@pytest.fixture
def project(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the evaluated project."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(evaluated, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy" / "a clone")


@pytest.fixture
def subdirectory(project: Project) -> Project:
    """A DVC project in a folder of a git repository with other content."""
    outer = Repository(project.outside / "a monorepo")
    inner = Project(outer.path / "vision" / "quantization")
    inner.path.mkdir(parents=True)
    (outer.path / "README").write_text("other content")
    outer.run("git", "init", "-qb", "main")
    outer.commit("before the project")
    inner.run("dvc", "init", "-q", "--subdir")
    inner.write_pipeline()
    inner.evaluate(4, "four")
    return inner


def clone(project: Project, name: str) -> Project:
    """Return a clone of a project's git repository, with an empty cache."""
    top = Path(project.run("git", "rev-parse", "--show-toplevel").output.strip())
    project.run("git", "clone", "-q", str(top), str(project.outside / name))
    return Project(project.outside / name / project.path.relative_to(top))


def are_equal(first: Predictions, second: Predictions) -> bool:
    return first.card == second.card and all(
        np.array_equal(array, getattr(second.networks[name], field))
        for name, network in first.networks.items()
        for field, array in vars(network).items()
    )


def test_two_revisions_are_compared_image_by_image(repository: Repository) -> None:
    before = repository.read("metrics/evaluate.json")
    repository.run(
        "dvc", "exp", "run", "-S", "convert.activation.method=moving_average", "-S", "convert.head=int8", "evaluate"
    )
    repository.commit("another method")

    compared = json.loads(repository.run("ptqflow", "compare", "HEAD~1", "HEAD", "--json").output)

    old, new = json.loads(before), json.loads(repository.read("metrics/evaluate.json"))
    assert np.allclose(compared["top1"], [old["int8_top1"], new["int8_top1"]], atol=1e-6)
    pairs = compared["paired"]
    assert pairs["both_right"] + pairs["only_a_right"] == round(old["int8_top1"] * compared["images"])
    assert pairs["both_right"] + pairs["only_b_right"] == round(new["int8_top1"] * compared["images"])
    assert all(image["a"] != image["b"] for image in compared["changed"])
    assert len(compared["changed"]) >= pairs["only_a_right"] + pairs["only_b_right"]

    text = repository.run("ptqflow", "compare", "HEAD~1", "HEAD").output
    assert f"A is the INT8 model of HEAD~1, B that of HEAD; {compared['images']} test images" in text
    assert "only A " in text


@pytest.mark.extra
def test_revisions_with_other_test_images_are_refused(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "data.seed=1", "evaluate")
    repository.commit("other images")

    assert_refused(repository, "HEAD~1", "HEAD", "HEAD~1 and HEAD were evaluated on different test images")


def test_a_revision_equals_itself(project: Project) -> None:
    output = project.run("ptqflow", "compare", "HEAD", "main").output
    assert "B and A predict the same class for all of the" in output
    assert "No prediction changed." in output


def test_an_error_is_one_line(project: Project) -> None:
    assert_refused(project, "two", "nowhere", "there is no git revision nowhere")
    assert_refused(project, "not-evaluated", "two", "the dvc.lock of not-evaluated has no data/predictions: ")


def assert_refused(repository: Repository, first: str, second: str, words: str) -> None:
    result = repository.try_run("ptqflow", "compare", first, second)
    assert result.status == 1
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(f"ptqflow: {words}")


def test_the_predictions_of_any_kind_of_revision_come_from_the_cache(project: Project) -> None:
    commit = project.run("git", "rev-parse", "--short", "one").output.strip()
    project.run("git", "branch", "old", "one")

    for revision, tag in (
        ("one", "one"),
        ("HEAD~1", "one"),
        (commit, "one"),
        ("old", "one"),
        ("main", "two"),
        ("a-trial", "a-trial"),
    ):
        assert are_equal(fetch_predictions(revision, project.path), project.kept(tag)), revision


def test_what_is_not_committed_does_not_count(project: Project) -> None:
    for name in ("dvc.lock", "dvc.yaml", "seed"):
        (project.path / name).unlink()
    shutil.rmtree(project.path / "data")

    assert are_equal(fetch_predictions("HEAD", project.path), project.kept("two"))


def test_any_folder_of_the_project_will_do(project: Project) -> None:
    folder = project.path / "docs" / "notes"
    folder.mkdir(parents=True)

    assert are_equal(fetch_predictions("HEAD", folder), project.kept("two"))


def test_what_the_cache_lacks_comes_from_the_default_remote(project: Project) -> None:
    project.push_to("../store")
    other = clone(project, "another clone")
    assert not other.cached_objects()

    assert are_equal(fetch_predictions("HEAD", other.path), project.kept("two"))


def test_a_project_in_a_subdirectory_is_compared_like_any_other(subdirectory: Project) -> None:
    assert are_equal(fetch_predictions("four", subdirectory.path), subdirectory.kept("four"))

    subdirectory.push_to(str(subdirectory.outside / "store"))
    other = clone(subdirectory, "another clone")
    assert are_equal(fetch_predictions("HEAD", other.path), subdirectory.kept("four"))

    with pytest.raises(ArtifactError, match=r"the dvc\.lock of four~1 has no vision/quantization/data/predictions"):
        fetch_predictions("four~1", subdirectory.path)
    with pytest.raises(ArtifactError, match="a monorepo is in no DVC project"):
        fetch_predictions("four", subdirectory.path.parents[1])


def test_where_dvc_does_not_find_the_remote_the_named_command_brings_the_predictions(subdirectory: Project) -> None:
    subdirectory.push_to("../../../store")  # a relative path, which DVC resolves in a checkout alone
    other = clone(subdirectory, "another clone")
    with pytest.raises(ArtifactError, match="predictions of HEAD neither from its cache nor") as refused:
        fetch_predictions("HEAD", other.path)

    pull, repro = re.findall("`(.*?)`", str(refused.value))
    assert (pull, repro) == ("dvc pull data/predictions", "dvc repro")
    other.run(*pull.split())
    assert are_equal(fetch_predictions("HEAD", other.path), subdirectory.kept("four"))


def test_a_worktree_finds_what_any_other_has_in_its_cache(project: Project) -> None:
    project.run("git", "worktree", "add", "-q", "--detach", "../of one", "one")
    worktree = Project(project.path.parent / "of one")
    assert not worktree.cached_objects()
    assert are_equal(fetch_predictions("HEAD", worktree.path), project.kept("one"))
    assert are_equal(fetch_predictions("main", worktree.path), project.kept("two"))

    worktree.evaluate(5, "five")
    assert are_equal(fetch_predictions("five", project.path), project.kept("five"))
    shutil.rmtree(project.path / ".dvc/cache")
    with pytest.raises(ArtifactError, match="predictions of main neither from its cache nor from its default remote"):
        fetch_predictions("main", worktree.path)
    shutil.rmtree(worktree.path)
    with pytest.raises(ArtifactError, match="predictions of five neither from its cache nor from its default remote"):
        fetch_predictions("five", project.path)


def test_a_worktree_of_a_repository_with_the_project_in_a_subdirectory_is_compared(subdirectory: Project) -> None:
    subdirectory.run("git", "worktree", "add", "-q", "--detach", str(subdirectory.outside / "another tree"))
    folder = subdirectory.outside / "another tree" / "vision" / "quantization"

    assert are_equal(fetch_predictions("HEAD", folder), subdirectory.kept("four"))


def test_a_worktree_reads_the_default_remote(project: Project) -> None:
    project.push_to("../store")
    project.run("git", "worktree", "add", "-q", "--detach", "../of main", "main")
    shutil.rmtree(project.path / ".dvc/cache")

    assert are_equal(fetch_predictions("HEAD", project.path.parent / "of main"), project.kept("two"))


@pytest.mark.parametrize("suffix", [".dir", ""], ids=["directory", "files"])
def test_objects_that_the_cache_has_lost_are_refused(project: Project, suffix: str) -> None:
    for path in project.cached_objects():
        if path.suffix == suffix:
            path.unlink()

    with pytest.raises(ArtifactError, match="predictions of HEAD neither from its cache nor from its default remote"):
        fetch_predictions("HEAD", project.path)


def test_damaged_predictions_are_refused_by_their_hash(project: Project) -> None:
    largest = max(project.cached_objects(), key=lambda path: path.stat().st_size)
    for path in project.cached_objects():
        if path.stat().st_size == largest.stat().st_size:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(content)
            path.chmod(0o444)

    with pytest.raises(ArtifactError, match="the predictions of two are damaged in DVC's cache or remote"):
        fetch_predictions("two", project.path)


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("nowhere", "there is no git revision nowhere"),
        ("main~9", "there is no git revision main~9"),
        ("HEAD:seed", "DVC can read the predictions of HEAD:seed neither"),
        ("", "the name of a revision is empty"),
    ],
)
def test_what_is_no_revision_is_refused(project: Project, revision: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        fetch_predictions(revision, project.path)


def test_a_pipeline_that_never_ran_is_refused(project: Project) -> None:
    project.run("git", "rm", "-q", "--cached", "dvc.lock")
    project.run("git", "commit", "-qm", "no lock")

    with pytest.raises(ArtifactError, match=r"the dvc\.lock of HEAD has no data/predictions: run `dvc repro`"):
        fetch_predictions("HEAD", project.path)


def test_a_folder_without_git_or_dvc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{tmp_path} is in no DVC project: "):
        fetch_predictions("HEAD", tmp_path)

    (tmp_path / ".dvc").mkdir()
    with pytest.raises(ArtifactError, match=rf"{tmp_path} is in no git repository, .*\(fatal: not a git repository"):
        fetch_predictions("HEAD", tmp_path)

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(ArtifactError, match="there is no git revision HEAD"):
        fetch_predictions("HEAD", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a change of owner needs root")
def test_a_repository_of_another_user_is_refused_with_the_command_that_trusts_it(project: Project) -> None:
    for path in (project.path, *project.path.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)

    result = project.try_run("ptqflow", "compare", "one", "two")
    assert result.status == 1
    assert len(result.output.splitlines()) == 1
    command = f"git config --global --add safe.directory '{project.path}'"
    assert f"`{command}`" in result.output

    project.run("sh", "-c", command)
    assert "test images" in project.run("ptqflow", "compare", "one", "two").output
