import pytest
from evaluation import evaluation_figures

from ptqflow.core.figures import EvaluationFigures, ObservedRange, QuantizedRange, SearchRow, SensitivityRow
from ptqflow.evaluate.cause import Quantization, find_cause

SENSITIVITY = [  # those that cost most first
    SensitivityRow(module="relu", drop=0.02),  # of an output that is all zeros
    SensitivityRow(module="block.conv2", sqnr_db=8.25, drop=0.02),
    SensitivityRow(module="conv1", sqnr_db=7.0, drop=0.0),
]


def quantization(largest: float = 60.0, tried: tuple[str, ...] = ()) -> Quantization:
    observed = [ObservedRange(tensor=name, min=-largest, max=1.0) for name in ("conv1", "block.conv2")]
    quantized = [
        QuantizedRange(tensor=name, low=-4.0, high=5.0, scale=0.1, zero_point=3, clipped=0.0)
        for name in ("conv1", "block.conv2")
    ]
    rows = [SearchRow(tensor="", method=method, sqnr_db=20.0) for method in tried]
    return Quantization(observed, quantized, [*rows, SearchRow(tensor="conv1", method="mse", sqnr_db=1.0)], SENSITIVITY)


LOSES = evaluation_figures(fp32=0.98, int8=0.97)


@pytest.mark.parametrize(
    "figures", [LOSES, evaluation_figures(fp32=0.97, int8=0.98, median_sqnr_db=19.9)], ids=["drop", "low SQNR"]
)
def test_the_module_that_loses_most_is_named_with_its_outliers_and_what_was_tried(figures: EvaluationFigures) -> None:
    assert find_cause(figures, quantization(tried=("mse", "minmax_32"))) == (
        "Most is lost in block.conv2, whose output has an SQNR of 8.2 dB with that module alone quantized: calibration "
        "saw values of 12.0 times its range. Tried for all tensors: mse, minmax_32. Next: "
        "`dvc exp run -S 'convert.keep_fp32=[block.conv2]'`, or `-S convert.max_drop=0.3`, which keeps as many modules "
        "FP32 as that takes."
    )


def test_without_outliers_and_trials_neither_is_mentioned() -> None:
    text = find_cause(LOSES, quantization(largest=5.0))
    assert text
    assert "with that module alone quantized. Next: " in text


@pytest.mark.parametrize(
    "figures",
    [
        evaluation_figures(fp32=0.97, int8=0.98),
        evaluation_figures(fp32=0.98, int8=0.979),
        evaluation_figures(fp32=0.98, int8=0.98, median_sqnr_db=None),
    ],
    ids=["a gain", "not significant", "equal logits"],
)
def test_a_network_that_loses_nothing_has_no_cause(figures: EvaluationFigures) -> None:
    assert find_cause(figures, quantization()) is None


def test_a_network_without_int8_modules_has_no_cause() -> None:
    assert find_cause(LOSES, Quantization([], [], [], [])) is None
