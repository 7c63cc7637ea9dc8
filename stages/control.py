"""Convert the FP32 network to INT8 without calibration: the control, with which calibrated INT8 is compared."""

from ptqflow.core.paths import DATASET, FP32, INT8_UNCALIBRATED
from ptqflow.core.stage import run


def main() -> str:
    """Write models/int8_uncalibrated."""
    from ptqflow.convert.params import ConvertParams
    from ptqflow.convert.quantize import quantize
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.fx.artifact import save_int8
    from ptqflow.fx.layers import list_layers, summarize_layers
    from ptqflow.models.fp32 import load_fp32

    params = read_params("convert", ConvertParams)
    fp32, train = load_fp32(FP32), open_dataset(DATASET).train
    control = quantize(fp32.module, fp32.card, params, None, train)
    images = first_images(train, fp32.card.normalization)
    layers = list_layers(fp32.module, control.converted)
    save_int8(INT8_UNCALIBRATED, control.prepared, control.converted, layers, control.card, images)
    return summarize_layers(layers)


if __name__ == "__main__":
    run("control", main)
