"""Measure on val what the quantization of each module costs."""

from ptqflow.core.paths import DATASET, FP32, INT8
from ptqflow.core.stage import run


def main() -> str:
    """Write metrics/plots/sensitivity.csv."""
    from ptqflow.convert.params import SensitivityParams
    from ptqflow.convert.sensitivity import measure_sensitivity, sensitivity_rows
    from ptqflow.core.figures import SENSITIVITY
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.fx.artifact import load_int8
    from ptqflow.fx.smoothing import smooth
    from ptqflow.models.fp32 import load_fp32

    params = read_params("sensitivity", SensitivityParams)
    val = open_dataset(DATASET).val
    fp32 = load_fp32(FP32)
    int8 = load_int8(INT8)
    converted_from = smooth(fp32.module, fp32.card.input_shape, int8.card.scales)
    found = measure_sensitivity(converted_from, fp32.card, int8.card, int8.module, val, params.images)
    SENSITIVITY.write(sensitivity_rows(found))
    return f"{len(found)} modules, on {min(params.images, len(val)):,} val images"


if __name__ == "__main__":
    run("sensitivity", main)
