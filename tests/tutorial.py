"""The tutorials of docs/: their code blocks, run in order, and what is printed against what the pages show."""

import json
import re
import shutil
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from filelock import FileLock
from repository import ROOT, Repository, copy_tracked

TUTORIALS = ROOT / "docs" / "tutorials"
FOLLOWS = {"accuracy": "photos", "team": "photos"}
"""Tutorials that start in the folder in which another one has ended; `cluster` starts in a clone of ptqflow."""
PROJECT = "digits"
"""The folder that the tutorial `photos` makes."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "=== step of the tutorial\n"


@dataclass(frozen=True)
class Step:
    """A code block of a page."""

    script: str
    """For bash."""
    shown: str | None
    """What the page says that it prints; None: nothing about it."""


def steps_of(text: str) -> list[Step]:
    """Return the code blocks of a page: `bash` and `python` are run, `text` is what the block before it prints."""
    steps: list[Step] = []
    for language, content in _BLOCK.findall(text):
        if language == "text" and steps and steps[-1].shown is None:
            steps[-1] = Step(steps[-1].script, content)
        elif language == "python":
            steps.append(Step(f"python - <<'END OF PYTHON'\n{content}END OF PYTHON\n", None))
        elif language == "bash":
            steps.append(Step(content, None))
        else:
            raise ValueError(f"a tutorial has a block of {language or 'no language'}, which is not run: {content}")
    return steps


def prints(shown: str, printed: str) -> bool:
    """Return whether this was printed: `…` is any text, alone on a line any lines, a number with a point any such."""
    pattern = "".join("(?:.*\n)*?" if line == "…" else f"{_pattern(line)} *\n" for line in shown.splitlines())
    return re.fullmatch(pattern, printed.strip("\n") + "\n") is not None


def _pattern(line: str) -> str:
    number = r"\d[\d,]*\.\d+"
    texts_and_others = re.split(f"(…|{number})", line.rstrip())
    others = [".*" if other == "…" else number for other in texts_and_others[1::2]]
    return "".join(chain(*zip_longest(map(re.escape, texts_and_others[::2]), others, fillvalue="")))


@dataclass(frozen=True)
class Finished:
    """A tutorial that has run."""

    status: int
    printed: list[str]
    """By each step; fewer than the page has where one failed."""


def finish(name: str, folder: Path) -> Finished:
    """Run a tutorial in a folder of its own below this one, after those that it follows; each is run once."""
    scratch = folder / name
    with FileLock(f"{scratch}.lock"):
        log = folder / f"{name}.json"
        if not log.exists():
            log.write_text(json.dumps(_run(name, scratch, folder)))
        return Finished(**json.loads(log.read_text()))


def _run(name: str, scratch: Path, folder: Path) -> dict[str, object]:
    start, sources = scratch, ROOT
    if name == "cluster":
        start = sources = scratch / "clone"
        copy_tracked(start)
        Repository(start).run("git", "init", "-qb", "main")
        Repository(start).commit("ptqflow")
    elif before := FOLLOWS.get(name):
        assert finish(before, folder).status == 0, f"the tutorial {before} failed"
        shutil.copytree(folder / before, scratch, symlinks=True)
        start = scratch / PROJECT
    scratch.mkdir(exist_ok=True)
    steps = steps_of((TUTORIALS / f"{name}.md").read_text())
    script = "trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n"
    script += "".join(f"printf '{_MARK.strip()}\\n'\n{step.script}" for step in steps)
    environment = [f"PYTHONPATH={sources / 'src'}", "RAY_USAGE_STATS_ENABLED=0"]
    result = Repository(start).try_run("env", *environment, "bash", "-euo", "pipefail", "-c", script)
    return {"status": result.status, "printed": result.output.split(_MARK)[1:]}
