"""Metrics and plots with real dvc: headline figures to compare on a screen, tables beside them."""

import csv
import io
import json
from pathlib import Path

import pytest
from repository import PIPELINES, ROOT, STAGES, Repository, stages_of

pytestmark = pytest.mark.slow

HEADLINE = "metrics/evaluate.json"
FIGURES = 12
WIDTH = 160  # of a terminal, and most columns of the table of experiments


def test_metrics_are_one_file_of_a_dozen_figures_and_the_speed_has_its_own(repository: Repository) -> None:
    assert metrics_of("dvc.yaml") == [HEADLINE]
    assert metrics_of("pipelines/benchmark/dvc.yaml") == ["metrics/benchmark.json"]
    figures = json.loads(repository.read(HEADLINE))
    assert 10 <= len(figures) <= FIGURES
    assert all(isinstance(figure, int | float) for figure in figures.values())


def test_the_table_of_experiments_fits_a_screen(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "calib.batches=3", "-S", "convert.activation.method=minmax", "evaluate")
    columns = next(csv.reader(io.StringIO(repository.run("dvc", "exp", "show", "--csv").output)))
    assert len(columns) <= WIDTH
    shown = repository.run("env", "COLUMNS=400", "dvc", "exp", "show", "--only-changed", "--drop", ".*/").output
    assert max(map(len, shown.splitlines())) <= WIDTH, shown
    assert "calib.batches" in shown
    assert "agreement" in shown


@pytest.mark.extra
def test_a_diff_after_another_training_is_a_screen_of_rows(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "train.lr=0.05", "-S", "calib.batches=3")
    output = repository.run("dvc", "metrics", "diff", "HEAD", "--md").output
    rows = [line for line in output.splitlines() if line.startswith("| metrics/")]
    assert 5 <= len(rows) <= FIGURES, output


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


def test_without_onnx_the_pipeline_ends_with_a_report_of_the_file_that_there_is(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "export.onnx=false")
    assert set(result.ran) == {"dry_run", "export", "report"}
    page = repository.read("report/index.html")
    assert "int8.torchscript.pt" in page
    assert "int8.onnx" not in page


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


def test_the_first_experiment_changes_one_line_of_the_params(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` writes the file with

    file = tmp_path / "params.yaml"
    before = (ROOT / "params.yaml").read_text()
    file.write_text(before)
    apply_overrides(file, ["calib.batches=20"])
    changed = [
        lines for lines in zip(before.splitlines(), file.read_text().splitlines(), strict=True) if len({*lines}) > 1
    ]
    assert len(changed) == 1
    assert "batches" in changed[0][0]
