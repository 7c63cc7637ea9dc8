"""What a clone knows of a run in miniature."""

from finished_run import write_benchmark

from ptqflow.core.paths import EXPORT
from ptqflow.report.clone import Changes, Clone
from ptqflow.report.results import read_benchmark
from ptqflow.runtime.manifest import read_manifest


def a_clone() -> Clone:
    """Return what a clone knows of the run in the working directory, in which everything changed."""
    write_benchmark()
    changes = Changes(
        "The last report is of commit abc; `dvc get` brings it.",
        params={"convert.head": ("fp32", "auto"), "data.limit": (None, 300)},
        inputs=["src/ptqflow/report", "stages/train.py"],
        figures={"drop": (0.01, 0.0025)},
    )
    return Clone({"Commit": "abc", "Branch": "<main>"}, changes, read_benchmark(read_manifest(EXPORT)))
