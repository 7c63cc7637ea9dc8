from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.core.engines import Engine
from ptqflow.fx.fp32_steps import WRONG, fp32_steps
from ptqflow.models.canonical import canonicalize

SIZE = 8
INPUT_SHAPE = (3, SIZE, SIZE)
BETWEEN = "between FP32 steps"


class Body(nn.Module):
    """A convolution, a function, and a linear layer on the mean."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.conv(x), *self.parts).mean((2, 3)))


def steps(
    network: nn.Module, kept: Mapping[str, tuple[str, ...]] | None = None, engine: Engine = "x86"
) -> dict[str, str]:
    return fp32_steps(canonicalize(network, INPUT_SHAPE), engine, kept or {})


def test_between_int8_layers_everything_with_a_kernel_is_int8() -> None:
    assert steps(Body(lambda x, c: F.max_pool2d(F.relu(c(x) + x), 2), nn.Conv2d(6, 6, 1))) == {}


def test_before_an_fp32_head_what_has_no_weights_is_fp32() -> None:
    found = steps(Body(lambda x, c: F.relu(c(x) + x), nn.Conv2d(6, 6, 1)), {"kept FP32": ("head",)})
    assert found == {"head": "kept FP32", "mean": BETWEEN, "relu": BETWEEN, "add": BETWEEN}


def test_between_steps_without_kernels_what_has_one_is_fp32_too() -> None:
    found = steps(Body(lambda x: F.max_pool2d(F.gelu(x), 2).pow(2)))
    assert found == {"max_pool2d": BETWEEN, "mean": BETWEEN}


def test_what_reads_the_image_alone_is_fp32() -> None:
    assert steps(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 4), nn.Flatten())) == {"_0": BETWEEN, "_2": BETWEEN}


def test_views_neither_end_nor_begin_int8() -> None:
    assert steps(Body(lambda x, c: c(torch.flatten(x, 2).unflatten(2, (8, 8))), nn.Conv2d(6, 6, 1))) == {}


@pytest.mark.parametrize("scaled", [lambda x: x * 255, lambda x: 2 + x, lambda x: torch.add(x, 1)])
def test_arithmetic_with_a_number_is_fp32(scaled: Callable[[Tensor], Tensor]) -> None:
    (reason,) = set(steps(Body(lambda x, c: c(scaled(x)), nn.Conv2d(6, 6, 1))).values())
    assert reason == "scales or shifts by a number, which needs no rounding"


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.LayerNorm(SIZE), nn.Softmax(1)])
def test_what_computes_in_float_inside_is_fp32(norm: nn.Module) -> None:
    found = steps(Body(lambda x, n, c: c(n(x)), norm, nn.Conv2d(6, 6, 1)))
    assert found == {"parts_0": "computes in float inside, on INT8 values too"}


@pytest.mark.parametrize(
    ("engine", "layer", "is_wrong"),
    [
        ("x86", nn.PReLU(), True),
        ("x86", nn.ConvTranspose2d(6, 6, 1), True),
        ("x86", nn.AvgPool2d(3, 2, 1, count_include_pad=False), False),
        ("qnnpack", nn.AvgPool2d(3, 2, 1, count_include_pad=False), True),
        ("qnnpack", nn.AvgPool2d(3, 2, 1), False),
    ],
)
def test_what_an_engine_computes_wrongly_is_fp32_there(engine: Engine, layer: nn.Module, is_wrong: bool) -> None:
    found = steps(Body(lambda x, a, c: c(a(x)), layer, nn.Conv2d(6, 6, 1)), engine=engine)
    assert found == ({"parts_0": WRONG} if is_wrong else {})


def test_a_chosen_step_has_the_reason_that_was_given() -> None:
    network = Body(lambda x, c: c(x) + x, nn.Conv2d(6, 6, 1))
    assert steps(network, {"asked": ("parts",), "other": ("add",)}) == {
        "parts_0": "asked",
        "add": "other",
        "mean": BETWEEN,
    }


def test_a_convolution_whose_weights_depend_on_the_input_is_fp32() -> None:
    found = steps(Body(lambda x, c: c(F.conv2d(x, x.mean((0, 2, 3)).view(6, 1, 1, 1), groups=6)), nn.Conv2d(6, 6, 1)))
    assert found["conv2d"] == "its weights depend on the input"
