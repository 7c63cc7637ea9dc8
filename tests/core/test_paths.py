"""Outputs have the place that dvc.yaml says."""

from pathlib import Path

from repository import STAGES, outputs_of

from ptqflow.core import paths


def test_every_output_of_a_stage_lies_at_or_below_a_path_of_the_module() -> None:
    known = {value for value in vars(paths).values() if isinstance(value, Path)}
    outputs = {Path(output) for stage in STAGES for output in outputs_of(stage)}

    assert len(outputs) > 10
    below = {output for output in outputs if not known.isdisjoint({output, *output.parents, output / "index.html"})}
    assert below == outputs
