import miniature
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.core.engines import Engine, available_engines
from ptqflow.fx.convert import convert
from ptqflow.fx.layers import Layer, count_layers, describe_layers, list_layers, summarize_layers
from ptqflow.fx.prepare import Scheme, prepare

NO_KERNEL = "torch has no INT8 kernel for it"
USED_OTHERWISE = "torch has an INT8 kernel for it, but not for how it is used here"
UNROUNDED = "its output is not rounded"
FLOAT = "every runtime computes it in float"
AS_IT_IS = "works on INT8 values unchanged"


class Rows(nn.Module):
    """Reads an image row by row, and works with its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * miniature.SIZE, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.mid = nn.Linear(4, 4)
        self.act = nn.GELU()
        self.drop = nn.Dropout()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], x.shape[1] * x.size(3))
        states, _ = self.gru(self.first(rows))
        return self.last(self.drop(self.act(self.mid(states[:, -1]))))


def converted(model: nn.Module, engine: Engine) -> GraphModule:
    scheme = Scheme(engine=engine, reduce_range=True, per_channel=True, mse_weights=False, fp32=(), fuse_additions=True)
    return convert(prepare(model.eval(), miniature.INPUT_SHAPE, scheme), scheme, miniature.INPUT_SHAPE)


def layers_of(model: nn.Module, engine: Engine) -> list[Layer]:
    return list_layers(model.eval(), converted(model, engine))


@pytest.mark.parametrize("engine", available_engines())
def test_a_resnet_is_int8_throughout_and_says_what_was_fused(engine: Engine) -> None:
    assert layers_of(miniature.residual(3), engine) == [
        Layer("conv1", "ConvReLU2d", "int8", "with bn1, relu"),
        Layer("maxpool", "MaxPool2d", "int8", AS_IT_IS),
        Layer("conv2", "Conv2d", "int8", "with bn2"),
        Layer("add", "add_relu", "int8", ""),
        Layer("avgpool", "AdaptiveAvgPool2d", "int8", AS_IT_IS),
        Layer("fc", "Linear", "int8", ""),
    ]


def test_max_pooling_really_gets_int8_values() -> None:
    int8 = converted(miniature.residual(3), available_engines()[0])
    seen = []
    int8.maxpool.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))

    int8(torch.zeros(1, 3, miniature.SIZE, miniature.SIZE))
    assert seen == [torch.quint8, torch.quint8]


@pytest.mark.parametrize("engine", available_engines())
def test_an_activation_without_a_kernel_stays_fp32_between_int8_layers(engine: Engine) -> None:
    assert layers_of(miniature.normed(3), engine) == [
        Layer("norm", "LayerNorm", "fp32", "computes in float inside, on INT8 values too"),
        Layer("conv", "Conv2d", "int8", UNROUNDED),
        Layer("gelu", "gelu", "fp32", NO_KERNEL),
        Layer("mean", "mean", "fp32", "between FP32 steps"),
        Layer("fc", "Linear", "int8", ""),
    ]


def test_each_fp32_layer_has_its_reason_and_what_computes_nothing_is_no_layer() -> None:
    layers = layers_of(Rows(), available_engines()[0])

    assert [(layer.name, layer.precision, layer.note) for layer in layers] == [
        ("first", "int8", ""),
        ("gru", "fp32", USED_OTHERWISE),
        ("mid", "int8", UNROUNDED),
        ("act", "fp32", FLOAT),
        ("last", "int8", ""),
    ]


def test_layers_are_counted_by_precision() -> None:
    layers = layers_of(miniature.normed(3), available_engines()[0])

    assert count_layers(layers) == {"int8": 2, "fp32": 3}
    assert count_layers([]) == {"int8": 0, "fp32": 0}


def test_the_summary_counts_reasons_the_most_frequent_first() -> None:
    layers = [Layer(name, "ReLU", "fp32", note) for name, note in (("a", "one"), ("b", "two"), ("c", "two"))]

    assert summarize_layers([*layers, Layer("d", "Linear", "int8", "")]) == "1 layers on INT8, 3 on FP32 (2 two, 1 one)"
    assert summarize_layers([]) == "0 layers on INT8, 0 on FP32"


def test_the_description_is_a_table_with_a_line_a_layer() -> None:
    layers = [
        Layer("conv1", "ConvReLU2d", "int8", "with bn1, relu"),
        Layer("act", "GELU", "fp32", ""),
    ]

    assert describe_layers(layers) == "int8  conv1  ConvReLU2d  with bn1, relu\nfp32  act    GELU\n"
