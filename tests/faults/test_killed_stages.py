"""Each stage alone, killed, or stopped for a while, at any moment."""

import random
import shutil
import time
from collections.abc import Callable

import pytest
from killing import WHOLE, require_equal_bytes_after_repro, signal_dvc
from repository import STAGES, Repository

pytestmark = pytest.mark.faults
SECONDS = 6.0
"""In which the signal comes, after the start: most stages end before, with what DVC does before and after them."""


def test_killed_stages(
    random_: random.Random, record_property: Callable[[str, object], None], repository: Repository
) -> None:
    before = repository.contents(*WHOLE)
    stage = random_.choice([*STAGES])
    seconds = random_.uniform(0, SECONDS)

    command = ["dvc", "repro", "--force", "--single-item", stage]
    number, ended, _ = signal_dvc(repository, command, random_, lambda _: time.sleep(seconds))

    case = f"{number} to `{stage}` after {seconds:.2f} s"
    after = require_equal_bytes_after_repro(repository, before, "", case)
    record_property("outcome", "ended well all the same" if ended == 0 else after)
    shutil.rmtree(repository.path)
