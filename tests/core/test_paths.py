"""Where the outputs lie, compared with what dvc.yaml says."""

from pathlib import Path

import pytest
from repository import ROOT, STAGES, outputs_of

from ptqflow.core import paths

OUTPUTS = [Path(output) for stage in STAGES for output in outputs_of(stage)]
NOT_TRACKED = {paths.CHECKPOINTS, paths.LIVE}
"""What a run leaves for a later one, and shows meanwhile: no stage's output."""
OF_THE_SPREAD = {paths.SPREAD, paths.SPREAD_SCORES}
NAMED = {name: value for name, value in vars(paths).items() if isinstance(value, Path)}


@pytest.mark.parametrize("name", NAMED)
def test_each_path_is_an_output_a_folder_of_outputs_or_ignored_by_git(name: str) -> None:
    path = NAMED[name]
    if path in NOT_TRACKED:
        assert f"/{path}" in (ROOT / ".gitignore").read_text()
    elif path in OF_THE_SPREAD:
        assert str(path) in (ROOT / "pipelines/spread/pipeline.yaml").read_text()
    else:
        assert any(output.is_relative_to(path) or path.is_relative_to(output) for output in OUTPUTS)


def test_every_output_lies_in_one_of_them() -> None:
    homes = [paths.REPORT.parent, *NAMED.values()]
    assert not [output for output in OUTPUTS if not any(output.is_relative_to(home) for home in homes)]
