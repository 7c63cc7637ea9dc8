from ptqflow.benchmark.slowdown import explain_loss
from ptqflow.runtime.manifest import LayerCard


def layer(name: str, precision: str) -> LayerCard:
    return LayerCard.model_validate(
        {"name": name, "operation": "Conv2d", "precision": precision, "scale": None, "zero_point": None}
    )


def test_a_loss_names_the_layers_on_fp32_and_the_longest_operation() -> None:
    layers = [layer("conv1", "fp32"), layer("conv2", "int8"), layer("fc", "fp32")]
    assert explain_loss(layers, {"aten::dequantize": 0.003, "quantized::conv2d": 0.001}) == (
        "INT8 is slower than FP32: 2 of 3 layers stay FP32 (conv1, fc); aten::dequantize takes 75 % of its time"
    )


def test_of_many_layers_the_first_three_are_named() -> None:
    layers = [layer(name, "fp32") for name in "abcd"]
    assert "4 of 4 layers stay FP32 (a, b, c, …)" in explain_loss(layers, {"x": 1.0})


def test_a_loss_without_islands_and_without_a_profile_says_so() -> None:
    assert explain_loss([layer("conv1", "int8")], {}) == (
        "INT8 is slower than FP32: all 1 layers are INT8; its profile shows nothing"
    )
