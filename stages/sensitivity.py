"""Measure on val what the quantization of each module costs."""

from pathlib import Path

from ptqflow.core.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
INT8_DIR = Path("models/int8")


def main() -> None:
    """Write metrics/sensitivity.json and metrics/plots/sensitivity.csv."""
    from ptqflow.convert.params import SensitivityParams
    from ptqflow.convert.sensitivity import measure_sensitivity, sensitivity_rows
    from ptqflow.core.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32

    params = read_params("sensitivity", SensitivityParams)
    val = open_dataset(DATASET_DIR).val
    model, card = load_fp32(FP32_DIR)
    int8 = load_int8(INT8_DIR)
    found = measure_sensitivity(model, card, int8.card, int8.module, val, params.images)
    write_csv(PLOTS_DIR / "sensitivity.csv", sensitivity_rows(found))
    write_metrics("sensitivity", {name: sensitivity.as_metrics() for name, sensitivity in found.items()})


if __name__ == "__main__":
    run("sensitivity", main)
