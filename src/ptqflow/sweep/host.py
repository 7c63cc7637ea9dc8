"""What a host runs experiments with: the clone that its ptqflow is installed from, and the versions of packages."""

import platform
import subprocess
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from ptqflow.core.errors import LaunchError

_EXTRAS = ("runtime", "pipeline")


@dataclass(frozen=True)
class Host:
    """What results may depend on, besides the CPU."""

    clone: Path
    """The repository whose ptqflow is imported."""
    commit: str | None
    """Its HEAD; None where it is no git repository."""
    versions: tuple[tuple[str, str | None], ...]
    """Of Python and of the packages that pyproject.toml names, without local versions such as +cpu; None: missing."""


def describe_host() -> Host:
    """Return what this process runs with."""
    clone = Path(__file__).parents[3]
    asked = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = asked.stdout.strip() if asked.returncode == 0 else None
    names = _packages(clone / "pyproject.toml") if commit else []
    python = ".".join(platform.python_version_tuple()[:2])
    return Host(clone, commit, (("Python", python), *((name, _version(name)) for name in names)))


def find_difference(host: Host, commit: str, versions: tuple[tuple[str, str | None], ...]) -> str | None:
    """Return how a host differs from what a sweep needs, and the remedy; None where it does not."""
    if host.commit is None:
        return f"its ptqflow in {host.clone} is not installed from a clone; run `pip install -e .` in a clone there"
    if host.commit != commit:
        return (
            f"its clone {host.clone} is at commit {host.commit[:8]}, and the sweep is of {commit[:8]}; "
            f"run `git fetch && git checkout {commit[:8]}` there"
        )
    here = dict(host.versions)
    differing = [(name, here.get(name), wanted) for name, wanted in versions if here.get(name) != wanted]
    if not differing:
        return None
    found = ", ".join(f"{name} {there or 'missing'} instead of {wanted or 'none'}" for name, there, wanted in differing)
    return f"it has {found}; install the same versions there, as `make` does from requirements.lock"


def _packages(pyproject: Path) -> list[str]:
    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise LaunchError(f"{pyproject} cannot be read ({error}): restore it with git") from error
    lines = [*project["dependencies"], *(line for name in _EXTRAS for line in project["optional-dependencies"][name])]
    return sorted({Requirement(line).name for line in lines} - {"ptqflow"})


def _version(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None
