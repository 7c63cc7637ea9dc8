"""Compare FP32, uncalibrated INT8 and calibrated INT8 on the test images."""

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import DATASET, FP32, INT8, INT8_UNCALIBRATED
from ptqflow.core.stage import run


def main() -> None:
    """Write metrics/evaluate.json, data/predictions and, in metrics/plots, the figures of classes and confidences."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams

    params = read_params("run", RunParams)
    if run_in_ranks(params.processes):
        return

    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.evaluate.writing import write_evaluation
    from ptqflow.fx.artifact import STATE, load_int8
    from ptqflow.fx.fidelity import Fidelity, require_fidelity
    from ptqflow.fx.smoothing import smooth
    from ptqflow.models.accuracy import compute_logits
    from ptqflow.models.fidelity import median_sqnr_db
    from ptqflow.models.fp32 import WEIGHTS, load_fp32

    dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
    test, normalization = dataset.test, fp32.card.normalization
    int8, control = load_int8(INT8), load_int8(INT8_UNCALIBRATED)
    networks = {"fp32": fp32.module, "int8_uncalibrated": control.module, "int8": int8.module}
    files = {"fp32": WEIGHTS.path(FP32), "int8_uncalibrated": STATE.path(INT8_UNCALIBRATED), "int8": STATE.path(INT8)}
    with joined(params.threads) as ranks:
        logits = {
            name: compute_logits(network, test, normalization, params.batch_size, name, ranks)
            for name, network in networks.items()
        }
    if ranks.rank:
        return
    fidelity = Fidelity(median_sqnr_db(logits["int8"], logits["fp32"]), f"{len(test)} test images")
    converted_from = smooth(fp32.module, fp32.card.input_shape, int8.card.scales)
    require_fidelity(fidelity, int8.card.min_sqnr_db, converted_from, int8.module, first_images(test, normalization))
    write_evaluation(logits, files, test.labels, fp32.card.classes, dataset.card.sha256["test"])


if __name__ == "__main__":
    run("evaluate", main)
