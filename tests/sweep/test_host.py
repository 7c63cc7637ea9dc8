import subprocess
from dataclasses import replace

import pytest
from repository import ROOT

from ptqflow.sweep.host import describe_host, find_difference

HOST = describe_host()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAME = replace(HOST, commit=COMMIT)


def test_a_host_is_described_by_its_commit_and_the_packages_of_pyproject() -> None:
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert (HOST.clone, HOST.commit) == (ROOT, head.strip())
    versions = dict(HOST.versions)
    assert {"Python", "torch", "numpy", "onnxruntime", "dvc"} <= versions.keys()
    assert "ptqflow" not in versions
    assert all(version and "+" not in version for version in versions.values())


def test_a_host_with_the_same_commit_and_packages_is_taken() -> None:
    assert find_difference(SAME, COMMIT, HOST.versions) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": None}, "is not installed from a clone; run `pip install -e .` in a clone there"),
        (
            {"commit": "f" * 40},
            "is at commit ffffffff, and the sweep is of 01234567; run `git fetch",
        ),
        (
            {"versions": (("torch", "2.12.0"),)},
            "it has torch 2.12.0 instead of 2.13.0; install the same versions",
        ),
        ({"versions": ()}, "it has torch missing instead of 2.13.0; install the same versions there"),
    ],
)
def test_a_host_with_another_commit_or_other_packages_is_refused_with_the_remedy(
    changes: dict[str, object], message: str
) -> None:
    found = find_difference(replace(SAME, **changes), COMMIT, (("torch", "2.13.0"),))  # type: ignore[arg-type]
    assert found
    assert message in found
