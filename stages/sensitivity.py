"""Measure on val what the quantization of each module costs."""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
STATISTICS_DIR = Path("models/statistics")
INT8_DIR = Path("models/int8")


def main() -> None:
    """Write metrics/sensitivity.json and metrics/plots/sensitivity.csv."""
    from ptqflow.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.params import read_params
    from ptqflow.quantization.artifact import load_int8
    from ptqflow.quantization.choices import ConvertParams
    from ptqflow.quantization.sensitivity import SensitivityParams, measure_sensitivity, sensitivity_rows
    from ptqflow.quantization.statistics import load_statistics

    params, convert_params = read_params("sensitivity", SensitivityParams), read_params("convert", ConvertParams)
    val = open_dataset(DATASET_DIR).val
    model, card = load_fp32(FP32_DIR)
    statistics = load_statistics(STATISTICS_DIR, card)
    int8 = load_int8(INT8_DIR)
    found = measure_sensitivity(
        model, card, int8.card.scheme, statistics, convert_params, int8.module, val, params.images
    )
    write_csv(PLOTS_DIR / "sensitivity.csv", sensitivity_rows(found))
    write_metrics("sensitivity", {name: sensitivity.as_metrics() for name, sensitivity in found.items()})


if __name__ == "__main__":
    run("sensitivity", main)
