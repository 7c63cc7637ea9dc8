"""Random tries: their number and seed, and the table of outcomes in docs/reliability.md."""

import os
import platform
import random
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from reproduced import repository, reproduced

from ptqflow.core.git import git
from ptqflow.core.machine import usable_cores

__all__ = ["repository", "reproduced"]

BEGIN, END = "<!-- faults: `make faults` writes this table -->\n", "<!-- end of faults -->\n"
HEAD = "| kind | seed | tries | outcome | seconds | machine | revision |\n|---|---:|---:|---|---:|---|---|"
COUNTED: dict[str, Counter[str]] = defaultdict(Counter)
DEFAULTS = {"--tries": 10, "--seed": 0}
"""Also where a run starts above this folder and pytest does not know the options."""
SECONDS: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tries", type=int, default=DEFAULTS["--tries"], help="tries of each quick kind of fault")
    parser.addoption("--seed", type=int, default=DEFAULTS["--seed"], help="of the random tries")
    parser.addoption("--reliability", type=Path, help="page with the table of outcomes, which is written")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make tries, each with a name of seed and number, by which it is repeated alone."""
    if "random_" in metafunc.fixturenames:
        tries, seed = (metafunc.config.getoption(name, default) for name, default in DEFAULTS.items())
        count = max(getattr(metafunc.module, "FEWEST", 1), tries // getattr(metafunc.module, "COST", 1))
        metafunc.parametrize("random_", [f"{seed}-{number}" for number in range(count)], indirect=True)


@pytest.fixture
def random_(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this try of this kind."""
    return random.Random(zlib.crc32(f"{request.function.__name__} {request.param}".encode()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "tests/faults/" not in report.nodeid or report.when != "call":
        return
    kind = report.nodeid.partition("::test_")[2].partition("[")[0].replace("_", " ")
    outcome = dict(report.user_properties).get("outcome", "as asserted")
    COUNTED[kind][outcome if report.passed else "FAILED"] += 1
    SECONDS[kind] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the rows of the kinds that ran; those of other kinds stay."""
    page: Path | None = session.config.getoption("--reliability", None)
    if page and COUNTED and not hasattr(session.config, "workerinput"):
        before, _, rest = page.read_text().partition(BEGIN)
        old, _, after = rest.partition(END)
        kept = {row.split(" | ")[0].removeprefix("| "): row for row in old.splitlines()[2:] if row.startswith("| ")}
        rows = kept | _rows(session.config.getoption("--seed"), page)
        page.write_text("\n".join([before + BEGIN + HEAD, *(rows[kind] for kind in sorted(rows)), END + after]))


def _rows(seed: int, page: Path) -> dict[str, str]:
    machine = f"{usable_cores()} cores, Python {platform.python_version()}, load {os.getloadavg()[2]:.0f}"
    revision = git(Path(), "rev-parse", "--short", "HEAD").stdout.strip()
    if git(Path(), "status", "--porcelain", "--untracked-files=no", "--", ".", f":!{page}").stdout:
        revision += "-dirty"
    rows = {}
    for kind, outcomes in COUNTED.items():
        text = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        figures = f"{seed} | {outcomes.total():,} | {text} | {SECONDS[kind]:.0f} | {machine} | {revision}"
        rows[kind] = f"| {kind} | {figures} |"
    return rows
