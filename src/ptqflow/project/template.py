"""The files of a pipeline that runs the installed package, made from those of ptqflow's own repository.

`files/` links to them, so that a wheel holds copies and nobody maintains two.
"""

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

FILES = Path(__file__).parent / "files"
STAGES = FILES / "stages"
CODE_FILE = Path("ptqflow.lock.json")

_HEADER = f"""\
# Written by `ptqflow init`. Each stage runs the installed package; {CODE_FILE} holds a hash of its code, so
# that `ptqflow upgrade` reruns what an upgrade changed and no more. The section `run` of params.yaml changes no
# result, so no stage lists it. `exec` leaves no shell between dvc and the stage, which ends when its parent does.
"""
_INSTALL = "python -m pip install -r requirements.lock && python -m pip install --no-deps -e ."
_INSTALL_RELEASE = (
    f"""python -m pip install "ptqflow[pipeline]==$(git ls-files '*{CODE_FILE}' | head -n 1 | xargs jq -r .version)\""""
)


def packages_of_stages() -> dict[str, list[str]]:
    """Return the packages of ptqflow that each stage runs, by the deps of ptqflow's own dvc.yaml."""
    stages = YAML(typ="safe").load(FILES / "pipeline.yaml")["stages"]
    prefix = "src/ptqflow/"
    return {
        name: [dep.removeprefix(prefix) for dep in entry.get("do", entry)["deps"] if dep.startswith(prefix)]
        for name, entry in stages.items()
    }


def pipeline() -> str:
    """Return dvc.yaml: that of ptqflow's repository, with the installed package in place of sources."""
    yaml = YAML()
    yaml.width = 1000  # wrapped by ruamel, the plots are hard to read
    yaml.indent(mapping=2, sequence=4, offset=2)
    loaded = yaml.load(FILES / "pipeline.yaml")
    for name, entry in loaded["stages"].items():
        _run_installed(name, entry.get("do", entry))
    text = StringIO()
    yaml.dump(loaded, text)
    _, start, body = text.getvalue().partition("stages:\n")
    return _HEADER + start + body


def _run_installed(name: str, stage: CommentedMap) -> None:
    script = f"stages/{name}.py"
    stage["cmd"] = f"exec ptqflow stage {name}{stage['cmd'].partition(script)[2]}"
    key = CommentedSeq([name])
    key.fa.set_flow_style()
    code: dict[str, Any] = {str(CODE_FILE): key}
    if "params" in stage:
        stage["params"].append(code)
    else:
        stage.insert(list(stage).index("cmd") + 1, "params", [code])
    deps = stage["deps"]
    for number in reversed(range(len(deps))):
        if deps[number] == script or deps[number].startswith("src/ptqflow/"):
            del deps[number]
    if not deps:
        del stage["deps"]


def workflow() -> str:
    """Return the workflow of GitHub, which installs the version that the repository's code file names."""
    text = (FILES / "workflow.yaml").read_text(encoding="utf-8")
    return text.replace(_INSTALL, _INSTALL_RELEASE)


def ignored_by_git() -> list[str]:
    """Return the lines of .gitignore for what belongs to DVC."""
    lines = (FILES / "gitignore").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return [*lines, "*.partial"]


def ignored_by_dvc() -> list[str]:
    """Return the lines of .dvcignore."""
    return (FILES / "dvcignore").read_text(encoding="utf-8").splitlines()
