"""Compare FP32, uncalibrated INT8 and calibrated INT8 on the test images."""

from pathlib import Path

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
PREDICTIONS_DIR = Path("data/predictions")
INT8_DIRS = {"int8_uncalibrated": Path("models/int8_uncalibrated"), "int8": Path("models/int8")}


def main() -> None:
    """Write metrics/evaluate.json, data/predictions and, in metrics/plots, confusion and per-class figures of each."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams

    params = read_params("run", RunParams)
    if run_in_ranks(params.processes):
        return

    from ptqflow.core.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.evaluate.metrics import compare, confusion_rows, per_class_rows
    from ptqflow.evaluate.predictions import PredictionsCard, predict, save_predictions
    from ptqflow.fx.artifact import load_int8, state_file
    from ptqflow.models.accuracy import compute_logits
    from ptqflow.models.fp32 import load_fp32, weights_file

    dataset = open_dataset(DATASET_DIR)
    test = dataset.test
    fp32, card = load_fp32(FP32_DIR)
    networks = {"fp32": fp32, **{name: load_int8(directory).module for name, directory in INT8_DIRS.items()}}
    files = {"fp32": weights_file(FP32_DIR), **{name: state_file(directory) for name, directory in INT8_DIRS.items()}}
    with joined(params.threads) as ranks:
        logits = {
            name: compute_logits(network, test, card.mean, card.std, params.batch_size, name, ranks)
            for name, network in networks.items()
        }
    if ranks.rank:
        return
    sizes = {name: file.stat().st_size for name, file in files.items()}
    for name in networks:
        write_csv(PLOTS_DIR / f"confusion_{name}.csv", confusion_rows(logits[name], test.labels, card.classes))
        write_csv(PLOTS_DIR / f"per_class_{name}.csv", per_class_rows(logits[name], test.labels, card.classes))
    predictions = {name: predict(values.numpy()) for name, values in logits.items()}
    predictions_card = PredictionsCard(classes=card.classes, test_sha256=dataset.card.sha256["test"])
    save_predictions(PREDICTIONS_DIR, predictions, test.labels, predictions_card)
    write_metrics("evaluate", compare(logits, sizes, test.labels, card.classes))


if __name__ == "__main__":
    run("evaluate", main)
