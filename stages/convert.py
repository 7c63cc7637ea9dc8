"""Choose ranges from the statistics and convert the FP32 network to INT8, within a budget on val if there is one."""

from ptqflow.core.paths import DATASET, FP32, INT8, PLOTS, STATISTICS
from ptqflow.core.stage import run


def main() -> str:
    """Write models/int8 and tables in metrics/plots."""
    from ptqflow.calib.statistics import load_statistics
    from ptqflow.convert.conversion import convert_network
    from ptqflow.convert.params import ConvertParams
    from ptqflow.convert.range_figures import histogram_rows, range_rows
    from ptqflow.core.artifacts import write_csv
    from ptqflow.core.figures import QUANTIZED_RANGES, SEARCH, TRIALS
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import save_int8
    from ptqflow.fx.layers import list_layers, summarize_layers
    from ptqflow.models.fp32 import load_fp32

    params = read_params("convert", ConvertParams)
    fp32 = load_fp32(FP32)
    found = convert_network(fp32, params, load_statistics(STATISTICS, fp32.card), open_dataset(DATASET), print)
    statistics, made = found.search.smoothed.statistics, found.quantized
    layers = list_layers(fp32.module, made.converted)
    save_int8(INT8, made.prepared, made.converted, layers, made.card, found.images)
    write_csv(PLOTS / "activations.csv", histogram_rows(statistics, made.qparams))
    QUANTIZED_RANGES.write(range_rows(statistics, made.qparams))
    SEARCH.write(list(found.search.rows))
    TRIALS.write(found.budget.rows())
    return f"{summarize_layers(layers)}; {INT8 / 'layers.txt'} lists them"


if __name__ == "__main__":
    run("convert", main)
