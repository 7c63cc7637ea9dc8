import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from finished_run import budget_of, write_benchmark, write_run

from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import (
    CLASSES,
    EPOCHS,
    FILE_CHECKS,
    OBSERVED_RANGES,
    QUANTIZED_RANGES,
    RELIABILITY,
    SEARCH,
    SENSITIVITY,
    TRIALS,
    EpochRow,
)
from ptqflow.report.results import read_benchmark, read_results

TABLES = (CLASSES, EPOCHS, FILE_CHECKS, OBSERVED_RANGES, QUANTIZED_RANGES, RELIABILITY, SEARCH, SENSITIVITY, TRIALS)
PREDICTIONS = "data/predictions/predictions.safetensors"


def test_what_the_stages_wrote_is_read_back() -> None:
    write_run(epochs=3)
    results = read_results()

    assert [row.epoch for row in results.epochs] == [1, 2, 3]
    assert len(results.test) == len(results.predictions["int8"].predicted) == 200
    assert results.predictions["fp32"].margin.dtype == np.float32
    assert results.evaluate.fp32.top1 == json.loads(Path("metrics/evaluate.json").read_text())["fp32_top1"]
    assert results.manifest.architecture == "resnet18"


def test_empty_cells_of_a_network_that_was_not_trained_are_none() -> None:
    write_run(epochs=0)
    assert read_results().epochs == [EpochRow(epoch=0, val_loss=0.5, val_top1=0.75)]


def test_timings_count_for_the_model_that_they_were_taken_of_alone() -> None:
    write_run()
    write_benchmark()
    manifest = read_results().manifest
    assert read_benchmark(manifest)
    write_benchmark(model_sha256="another")
    assert read_benchmark(manifest) == []


@pytest.mark.parametrize(
    "file",
    [
        *("data/dataset/card.json", "data/predictions/card.json", "data/predictions/figures.json", PREDICTIONS),
        "models/export/model.json",
        *(str(table.path) for table in TABLES),
    ],
)
def test_a_missing_file_is_named(file: str) -> None:
    write_run()
    Path(file).unlink()
    with pytest.raises(ArtifactError, match=rf"{file}.* is missing"):
        read_results()


def test_a_changed_or_broken_file_is_named() -> None:
    write_run()
    Path("data/predictions/figures.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"data/predictions/figures\.json: the file: Invalid JSON"):
        read_results()
    Path(PREDICTIONS).write_bytes(b"\0")
    with pytest.raises(ArtifactError, match="not the file that `evaluate` wrote"):
        read_results()


def test_predictions_of_other_images_are_refused() -> None:
    write_run()
    card = Path("data/predictions/card.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"test_sha256": "0"}))
    with pytest.raises(ArtifactError, match="predictions of other test images"):
        read_results()


def test_the_report_is_made_without_torch() -> None:
    code = "import sys, ptqflow.report.page, ptqflow.report.results; sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )


def test_a_table_that_lost_the_rows_which_others_need_is_one_line() -> None:
    write_run(budget=budget_of("conv1", (0, 3, ""), (1, 0, "conv1")))
    bins, trials = RELIABILITY.read(), TRIALS.read()
    RELIABILITY.write(row for row in bins if row.network != "int8")
    with pytest.raises(ArtifactError, match=r"reliability\.csv has no row of the network int8; run `ptqflow repair`"):
        read_results()
    RELIABILITY.write(bins)
    TRIALS.write(row for row in trials if not row.chosen)
    with pytest.raises(ArtifactError, match=r"budget\.csv has no row that was chosen; run `ptqflow repair`"):
        read_results()
