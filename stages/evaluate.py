"""Compare FP32, uncalibrated INT8 and calibrated INT8 on the test images."""

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import DATASET, FP32, INT8, INT8_UNCALIBRATED, PLOTS, PREDICTIONS
from ptqflow.core.stage import run

INT8_DIRS = {"int8_uncalibrated": INT8_UNCALIBRATED, "int8": INT8}


def main() -> None:
    """Write metrics/evaluate.json, data/predictions and, in metrics/plots, the figures of classes and confidences."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams

    params = read_params("run", RunParams)
    if run_in_ranks(params.processes):
        return

    from ptqflow.core.artifacts import write_csv, write_metrics
    from ptqflow.core.figures import CLASSES, RELIABILITY
    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.evaluate.metrics import class_rows, compare, confusion_rows, per_class_rows, reliability_rows
    from ptqflow.evaluate.predictions import PredictionsCard, predict, save_predictions
    from ptqflow.fx.artifact import STATE, load_int8
    from ptqflow.fx.fidelity import Fidelity, require_fidelity
    from ptqflow.models.accuracy import compute_logits
    from ptqflow.models.fidelity import median_sqnr_db
    from ptqflow.models.fp32 import WEIGHTS, load_fp32

    dataset = open_dataset(DATASET)
    test = dataset.test
    fp32 = load_fp32(FP32)
    int8 = {name: load_int8(directory) for name, directory in INT8_DIRS.items()}
    networks = {"fp32": fp32.module, **{name: model.module for name, model in int8.items()}}
    files = {"fp32": WEIGHTS.path(FP32), **{name: STATE.path(directory) for name, directory in INT8_DIRS.items()}}
    with joined(params.threads) as ranks:
        logits = {
            name: compute_logits(network, test, fp32.card.normalization, params.batch_size, name, ranks)
            for name, network in networks.items()
        }
    if ranks.rank:
        return
    fidelity = Fidelity(median_sqnr_db(logits["int8"], logits["fp32"]), f"{len(test)} test images")
    examples = first_images(test, fp32.card.normalization)
    require_fidelity(fidelity, int8["int8"].card.min_sqnr_db, fp32.module, int8["int8"].module, examples)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    for name in networks:
        write_csv(PLOTS / f"confusion_{name}.csv", confusion_rows(logits[name], test.labels, fp32.card.classes))
        write_csv(PLOTS / f"per_class_{name}.csv", per_class_rows(logits[name], test.labels, fp32.card.classes))
    predictions = {name: predict(values.numpy()) for name, values in logits.items()}
    predictions_card = PredictionsCard(classes=fp32.card.classes, test_sha256=dataset.card.sha256["test"])
    save_predictions(PREDICTIONS, predictions, test.labels, predictions_card)
    CLASSES.write(class_rows(logits, test.labels, fp32.card.classes))
    RELIABILITY.write(reliability_rows(logits, test.labels))
    write_metrics("evaluate", compare(logits, sizes, test.labels))


if __name__ == "__main__":
    run("evaluate", main)
