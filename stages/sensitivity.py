"""Measure on val what the quantization of each module costs."""

from ptqflow.core.paths import DATASET, FP32, INT8, PLOTS
from ptqflow.core.stage import run


def main() -> None:
    """Write metrics/sensitivity.json and metrics/plots/sensitivity.csv."""
    from ptqflow.convert.params import SensitivityParams
    from ptqflow.convert.sensitivity import measure_sensitivity, sensitivity_rows
    from ptqflow.core.artifacts import write_csv, write_metrics
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import load_int8
    from ptqflow.models.fp32 import load_fp32

    params = read_params("sensitivity", SensitivityParams)
    val = open_dataset(DATASET).val
    fp32 = load_fp32(FP32)
    int8 = load_int8(INT8)
    found = measure_sensitivity(fp32.module, fp32.card, int8.card, int8.module, val, params.images)
    write_csv(PLOTS / "sensitivity.csv", sensitivity_rows(found))
    write_metrics("sensitivity", {name: sensitivity.as_metrics() for name, sensitivity in found.items()})


if __name__ == "__main__":
    run("sensitivity", main)
