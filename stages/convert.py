"""Choose ranges from the statistics and convert the FP32 network to INT8, within a budget on val if there is one.

As the control, also without any ranges.
"""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
STATISTICS_DIR = Path("models/statistics")
INT8_DIR = Path("models/int8")
UNCALIBRATED_DIR = Path("models/int8_uncalibrated")


def main() -> None:
    """Write models/int8, models/int8_uncalibrated, two metrics files and metrics/plots/activations.csv."""
    from ptqflow.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.params import read_params
    from ptqflow.quantization.activations import chosen_metrics, histogram_rows
    from ptqflow.quantization.artifact import Int8Card, save_int8
    from ptqflow.quantization.budget import Budget, describe_trial, meet_budget
    from ptqflow.quantization.choices import ConvertParams
    from ptqflow.quantization.layers import count_layers, describe_layers, list_layers
    from ptqflow.quantization.quantize import quantize
    from ptqflow.quantization.statistics import load_statistics

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
        int8_card = Int8Card(scheme=made.scheme, calibrated=made is quantized, model=card)
        save_int8(directory, made.prepared, made.converted, layers, int8_card)
    print(describe_layers(layers))
    write_csv(PLOTS_DIR / "activations.csv", histogram_rows(statistics, quantized.qparams))
    tensors = chosen_metrics(statistics, quantized.qparams)
    trail = {"budget": budget.as_metrics()} if budget.trail else {}
    write_metrics("convert", {"layers": count_layers(layers), **trail, "tensors": tensors})
    write_metrics("convert_seconds", budget.seconds())


if __name__ == "__main__":
    run("convert", main)
