"""Choose ranges from the statistics and convert the FP32 network to INT8, within a budget on val if there is one.

As the control, also without any ranges.
"""

from ptqflow.core.paths import DATASET, FP32, INT8, INT8_UNCALIBRATED, PLOTS, STATISTICS
from ptqflow.core.stage import run


def main() -> None:
    """Write models/int8, models/int8_uncalibrated, metrics/convert.json and tables in metrics/plots."""
    from ptqflow.calib.sampling import input_batches
    from ptqflow.calib.statistics import load_statistics
    from ptqflow.convert.accuracy_budget import Budget, describe_trial, meet_budget
    from ptqflow.convert.method_search import search_methods
    from ptqflow.convert.params import ConvertParams
    from ptqflow.convert.quantize import quantize
    from ptqflow.convert.range_figures import histogram_rows, range_rows
    from ptqflow.core.artifacts import write_csv, write_metrics
    from ptqflow.core.figures import QUANTIZED_RANGES, SEARCH, TRIALS, ConvertMetrics
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import save_int8
    from ptqflow.fx.fidelity import measure_fidelity, require_fidelity
    from ptqflow.fx.layers import count_layers, describe_layers, list_layers
    from ptqflow.models.fp32 import load_fp32

    params = read_params("convert", ConvertParams)
    fp32 = load_fp32(FP32)
    dataset = open_dataset(DATASET)
    statistics = load_statistics(STATISTICS, fp32.card)
    search = search_methods(fp32, params, statistics, dataset.train, print)
    params = search.params
    budget = Budget((), ())
    if params.max_drop is not None:
        budget = meet_budget(
            fp32.module,
            fp32.card,
            params,
            statistics,
            dataset.train,
            dataset.val,
            lambda trial: print(describe_trial(trial)),
        )
    quantized, control = (
        quantize(fp32.module, fp32.card, params, seen, dataset.train, budget.kept) for seen in (statistics, None)
    )
    layers = list_layers(fp32.module, quantized.converted)
    images = next(input_batches(dataset.train, statistics.rows[:1], fp32.card.normalization))
    fidelity = measure_fidelity(fp32.module, quantized.converted, images)
    require_fidelity(fidelity, params.min_sqnr_db, fp32.module, quantized.converted, images)
    for directory, made in ((INT8, quantized), (INT8_UNCALIBRATED, control)):  # neither was refused
        save_int8(directory, made.prepared, made.converted, layers, made.card, images)
    print(describe_layers(layers))
    write_csv(PLOTS / "activations.csv", histogram_rows(statistics, quantized.qparams))
    QUANTIZED_RANGES.write(range_rows(statistics, quantized.qparams))
    SEARCH.write(list(search.rows))
    TRIALS.write(budget.rows())
    write_metrics("convert", ConvertMetrics(fp32_layers=count_layers(layers)["fp32"]))


if __name__ == "__main__":
    run("convert", main)
