"""Choose ranges from the statistics and convert the FP32 network to INT8, within a budget on val if there is one.

As the control, also without any ranges.
"""

from pathlib import Path

from ptqflow.core.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
STATISTICS_DIR = Path("models/statistics")
INT8_DIR = Path("models/int8")
UNCALIBRATED_DIR = Path("models/int8_uncalibrated")


def main() -> None:
    """Write models/int8, models/int8_uncalibrated, two metrics files and metrics/plots/activations.csv."""
    from ptqflow.calib.statistics import load_statistics
    from ptqflow.convert.accuracy_budget import Budget, describe_trial, meet_budget
    from ptqflow.convert.params import ConvertParams
    from ptqflow.convert.quantize import quantize
    from ptqflow.convert.range_figures import chosen_metrics, histogram_rows
    from ptqflow.core.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import save_int8
    from ptqflow.fx.layers import count_layers, describe_layers, list_layers
    from ptqflow.models.fp32 import load_fp32

    params = read_params("convert", ConvertParams)
    model, card = load_fp32(FP32_DIR)
    dataset = open_dataset(DATASET_DIR)
    statistics = load_statistics(STATISTICS_DIR, card)
    budget = Budget((), ())
    if params.max_drop is not None:
        budget = meet_budget(
            model, card, params, statistics, dataset.train, dataset.val, lambda trial: print(describe_trial(trial))
        )
    quantized, control = (
        quantize(model, card, params, seen, dataset.train, budget.kept) for seen in (statistics, None)
    )
    layers = list_layers(model, quantized.converted, quantized.scheme.fp32)
    for directory, made in ((INT8_DIR, quantized), (UNCALIBRATED_DIR, control)):  # neither was refused
        save_int8(directory, made.prepared, made.converted, layers, made.card)
    print(describe_layers(layers))
    write_csv(PLOTS_DIR / "activations.csv", histogram_rows(statistics, quantized.qparams))
    tensors = chosen_metrics(statistics, quantized.qparams)
    trail = {"budget": budget.as_metrics()} if budget.trail else {}
    write_metrics("convert", {"layers": count_layers(layers), **trail, "tensors": tensors})
    write_metrics("convert_seconds", budget.seconds())


if __name__ == "__main__":
    run("convert", main)
