"""Metrics and plots with real dvc: headline figures to compare on a screen, tables beside them."""

import csv
import io
import json
from pathlib import Path

import pytest
from repository import PIPELINES, ROOT, STAGES, Repository, stages_of

from ptqflow.benchmark.timed_runtimes import RUNTIMES

SCREEN = 25


def leaves(value: object) -> int:
    return sum(map(leaves, value.values())) if isinstance(value, dict) else 1


def test_all_metrics_together_fit_on_a_screen(repository: Repository) -> None:
    shown = json.loads(repository.run("dvc", "metrics", "show", "--json", *metrics_of("dvc.yaml")).output)[""]
    figures = {file: entry["data"] for file, entry in shown["data"].items()}
    assert set(figures) == set(metrics_of("dvc.yaml"))
    counts = {file: leaves(data) for file, data in figures.items()} | {"metrics/benchmark.json": len(RUNTIMES)}
    assert sum(counts.values()) <= SCREEN, counts


@pytest.mark.slow
@pytest.mark.extra
def test_a_diff_after_another_training_is_a_screen_of_rows(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "train.lr=0.05", "-S", "calib.batches=3")
    output = repository.run("dvc", "metrics", "diff", "HEAD", "--md").output
    rows = [line for line in output.splitlines() if line.startswith("| metrics/")]
    assert 5 <= len(rows) <= SCREEN, output


def test_dvc_shows_metrics_without_a_warning_or_an_empty_row(repository: Repository) -> None:
    repository.run("rm", "-rf", "live")
    output = repository.run("dvc", "metrics", "show").output
    assert "live" not in output
    lines = [line for line in output.splitlines() if line.strip()]
    assert not [line for line in lines if "WARNING" in line and "benchmark" not in line], output


def test_every_table_is_a_plot_that_is_compared_with_another_commit(repository: Repository) -> None:
    written = {f"metrics/plots/{file.name}" for file in (repository.path / "metrics/plots").iterdir()}
    declared = {next(iter(plot)) for stage in STAGES.values() for plot in stage.get("plots", [])}
    assert written == declared
    for file in written:
        assert next(csv.reader(io.StringIO(repository.read(file)))), file


@pytest.mark.slow
def test_without_onnx_the_pipeline_ends_with_a_report_of_the_file_that_there_is(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "export.onnx=false")
    assert set(result.ran) == {"dry_run", "export", "report"}
    page = repository.read("report/index.html")
    assert "int8.torchscript.pt" in page
    assert "int8.onnx" not in page
    assert json.loads(repository.read("metrics/export.json")) == {}


@pytest.mark.slow
def test_conflict_markers_in_a_table_are_one_line(repository: Repository) -> None:
    file = repository.path / "metrics/plots/classes.csv"
    text = file.read_text()
    file.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")
    result = repository.try_run("env", "PYTHONPATH=src", "python", "stages/report.py")
    assert result.status == 1
    assert result.output == (
        "report: metrics/plots/classes.csv holds conflict markers of git: resolve the conflict, then run `dvc repro`\n"
    )


def test_templates_of_plots_exist() -> None:
    own = {file.stem for file in (ROOT / ".dvc/plots").glob("*.json")}
    dvcs = {"linear", "scatter", "bar_horizontal"}
    plots = [plot for file in PIPELINES for stage in stages_of(file).values() for plot in stage.get("plots", [])]
    used = {next(iter(plot.values())).get("template", "linear") for plot in plots}
    assert own <= used <= own | dvcs


def metrics_of(pipeline: str) -> list[str]:
    entries = [metric for stage in stages_of(pipeline).values() for metric in stage.get("metrics", [])]
    return [str(Path(next(iter(entry)))) for entry in entries]
