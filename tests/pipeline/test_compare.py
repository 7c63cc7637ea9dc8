"""Two revisions image by image, with real git and real dvc."""

import json
import shutil

import numpy as np
import pytest
from repository import Repository


@pytest.mark.slow
def test_two_revisions_are_compared_image_by_image(repository: Repository) -> None:
    before = repository.read("metrics/evaluate.json")
    repository.run("dvc", "exp", "run", "-S", "convert.activation.method=moving_average", "-S", "convert.head=int8")
    repository.commit("another method")

    told = json.loads(repository.run("ptqflow", "compare", "HEAD~1", "HEAD", "--json").output)

    old, new = json.loads(before), json.loads(repository.read("metrics/evaluate.json"))
    assert np.allclose(told["top1"], [old["int8"]["top1"], new["int8"]["top1"]], atol=1e-6)
    pairs = told["paired"]
    assert pairs["both_right"] + pairs["only_a_right"] == round(old["int8"]["top1"] * told["images"])
    assert pairs["both_right"] + pairs["only_b_right"] == round(new["int8"]["top1"] * told["images"])
    assert all(image["a"] != image["b"] for image in told["changed"])
    assert len(told["changed"]) >= pairs["only_a_right"] + pairs["only_b_right"]

    text = repository.run("ptqflow", "compare", "HEAD~1", "HEAD").output
    assert f"A is the INT8 model of HEAD~1, B that of HEAD; {told['images']} test images" in text
    assert "only A " in text


def test_a_revision_equals_itself(repository: Repository) -> None:
    output = repository.run("ptqflow", "compare", "HEAD", "main").output
    assert "B predicts what A predicts for every one" in output
    assert "No prediction changed." in output


@pytest.mark.slow
def test_what_cannot_be_compared_is_one_line(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "data.seed=1")
    repository.commit("other images")

    for revisions, words in (
        (("HEAD~1", "HEAD"), "HEAD~1 and HEAD were evaluated on different test images"),
        (("HEAD", "nowhere"), "there is no git revision nowhere"),
    ):
        result = repository.try_run("ptqflow", "compare", *revisions)
        assert result.status == 1
        assert [line for line in result.output.splitlines() if line.startswith("ptqflow: ") and words in line]
        assert "Traceback" not in result.output

    shutil.rmtree(repository.path / ".dvc/cache")
    result = repository.try_run("ptqflow", "compare", "HEAD", "HEAD")
    assert result.status == 1
    assert "the predictions of HEAD are neither in DVC's cache nor in a remote" in result.output
    assert "Traceback" not in result.output


def test_where_there_is_nothing_to_compare_the_reason_is_one_line(repository: Repository) -> None:
    folder = repository.path.parent / "a folder"
    folder.mkdir()
    elsewhere = Repository(folder)
    for command, revision, words in (
        (("true",), "HEAD", f"{folder} is in no git repository"),
        (("git", "init", "-q"), "HEAD", "there is no git revision HEAD"),
        (("git", "commit", "-q", "--allow-empty", "-m", "nothing"), "HEAD", "HEAD has no DVC pipeline: "),
    ):
        elsewhere.run(*command)
        assert_refused(elsewhere, revision, words)

    repository.run("git", "rm", "-q", "--cached", "dvc.lock")
    repository.run("git", "commit", "-qm", "no lock")
    assert_refused(repository, "HEAD", "HEAD keeps no predictions: check it out, run `dvc repro`, commit dvc.lock")


def assert_refused(repository: Repository, revision: str, words: str) -> None:
    result = repository.try_run("ptqflow", "compare", revision, revision)
    assert result.status == 1
    told = [line for line in result.output.splitlines() if line.startswith("ptqflow: ")]
    assert len(told) == 1
    assert words in told[0]
    assert "Traceback" not in result.output


def test_a_clone_compares_by_way_of_the_remote(repository: Repository) -> None:
    repository.run("dvc", "remote", "add", "-d", "store", str(repository.path.parent / "store"))
    repository.commit("a remote")
    repository.run("dvc", "push", "-q")
    clone = repository.path.parent / "another clone"
    repository.run("git", "clone", "-q", str(repository.path), str(clone))

    assert (
        "B predicts what A predicts for every one" in Repository(clone).run("ptqflow", "compare", "HEAD", "HEAD").output
    )
