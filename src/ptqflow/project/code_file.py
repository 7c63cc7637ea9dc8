"""ptqflow.lock.json: the version of the installed package, and a hash of the code that each stage runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ptqflow.core.artifacts import write_text
from ptqflow.core.code import hash_packages
from ptqflow.core.errors import ArtifactError
from ptqflow.project.template import CODE_FILE, STAGES, packages_of_stages, pipeline
from ptqflow.runtime.version import VERSION

_BENCHMARK = "benchmark"
"""A stage of no pipeline that `init` writes: nothing depends on its timings, so there is no code to compare."""


def installed_code() -> dict[str, str]:
    """Return what the code file of the installed package holds.

    Keys are `version`; `pipeline`, the hash of dvc.yaml as `init` writes it; and each stage, with the hex SHA-256 of
    its script and of the packages that it imports, directly or not.
    """
    stages = {name: _hash(name, packages) for name, packages in packages_of_stages().items()}
    return {"version": VERSION, "pipeline": hash_text(pipeline()), **stages}


def hash_text(text: str) -> str:
    """Return the hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _hash(stage: str, packages: list[str]) -> str:
    script = (STAGES / f"{stage}.py").read_bytes()
    return hashlib.sha256(hash_packages(packages).encode() + script).hexdigest()


def as_text(code: dict[str, str]) -> str:
    """Return the code file's text."""
    return json.dumps(code, indent=2) + "\n"


def write_code(folder: Path, code: dict[str, str]) -> None:
    """Write the code file of a pipeline's folder."""
    write_text(folder / CODE_FILE, as_text(code))


def read_code(folder: Path) -> dict[str, str]:
    """Return the code file of a pipeline's folder.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    file = folder / CODE_FILE
    try:
        code: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"there is no {file}: run this where `ptqflow init` wrote dvc.yaml") from None
    except ValueError:
        code = None
    if not (isinstance(code, dict) and all(isinstance(value, str) for value in code.values())):
        raise ArtifactError(f"{file} is damaged: restore it with `git checkout {CODE_FILE}`, or run `ptqflow upgrade`")
    return code


def stage_script(stage: str, folder: Path = Path()) -> Path:
    """Return the installed script of a stage, whose code is what the code file of a pipeline's folder says.

    Raises:
        ArtifactError: there is no such stage, or the installed code is another.
    """
    if stage == _BENCHMARK:
        return STAGES / f"{stage}.py"
    packages = packages_of_stages()
    if stage not in packages:
        raise ArtifactError(f"there is no stage {stage!r}; the stages are {', '.join(packages)}")
    code = read_code(folder)
    if code.get(stage) != _hash(stage, packages[stage]):
        raise ArtifactError(
            f"{CODE_FILE} is of ptqflow {code.get('version', 'unknown')}, and the code of `{stage}` in the installed "
            f"ptqflow {VERSION} is another: run `ptqflow upgrade`, then `dvc repro`, or install that version"
        )
    return STAGES / f"{stage}.py"
