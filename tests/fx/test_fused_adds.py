"""Where an addition may be fused into a convolution: `python test_additions.py NAME` fuses it whether it may or not."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import miniature
import pytest
import torch
from fresh_process import ENGINES, collect, convert_params, decibels
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.backend_config import get_onednn_backend_config
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.fx import GraphModule
from torch.nn import functional as F

import ptqflow
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.data.fidelity import sqnr_db
from ptqflow.data.preprocessing import to_input
from ptqflow.fx import prepare as prepare_module
from ptqflow.fx.fused_adds import additions_are_safe, fused_additions
from ptqflow.fx.prepare import EVERYTHING, prepare, without_torch_warnings

pytestmark = pytest.mark.skipif("onednn" not in ENGINES, reason="onednn is not available")

ONEDNN = EVERYTHING.model_copy(update={"engine": "onednn", "fuse_additions": True})


class Network(nn.Module):
    """A stem, then what a function makes of these layers and what the stem returns, of which the output is a copy."""

    def __init__(self, body: Callable[["Network", Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.d = nn.Conv2d(8, 8, 3, padding=1)
        self.copy = nn.Conv2d(8, 8, 1, bias=False)  # on INT8, and so what it reads is
        nn.init.dirac_(self.copy.weight)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.relu_in_place = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout()
        self.pool = nn.MaxPool2d(2, 1)
        self.gelu = nn.GELU()
        self.like_an_image = nn.Parameter(torch.randn(1, 8, miniature.SIZE, miniature.SIZE))
        self.like_a_pixel = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.copy(self.body(self, self.relu(self.stem(x))))


Body = Callable[[Network, Tensor], Tensor]
SAFE: dict[str, Body] = {
    "conv + x": lambda m, x: m.b(m.relu(m.a(x))) + x,
    "x + conv": lambda m, x: x + m.b(m.relu(m.a(x))),
    "torch.add": lambda m, x: torch.add(m.b(m.a(x)), x),
    "relu after": lambda m, x: m.relu(m.b(m.relu(m.a(x))) + x),
    "relu after x + conv": lambda m, x: m.relu(x + m.b(m.relu(m.a(x)))),
    "functional relu after": lambda m, x: F.relu(m.b(m.relu(m.a(x))) + x),
    "bn": lambda m, x: m.bn(m.b(m.relu(m.a(x)))) + x,
    "bn and relu": lambda m, x: m.relu(m.bn(m.b(m.relu(m.a(x)))) + x),
    "relu in place": lambda m, x: m.relu_in_place(m.bn(m.b(m.relu(m.a(x)))) + x),
    "two convolutions": lambda m, x: m.relu(m.a(x) + m.b(x)),
    "another reader before": lambda m, x: m.b(m.a(x) * x) + x,
    "a view before": lambda m, x: m.b(m.a(m.dropout(x))) + x,
    "the sum is added to itself convolved": lambda m, x: (lambda s: s + m.d(m.c(s)))(m.b(m.a(x)) + x),
    "FP32 summand": lambda m, x: m.b(m.relu(m.a(x))) + m.gelu(x),
}
UNSAFE: dict[str, Body] = {
    "the summand is convolved": lambda m, x: m.a(x) + x,
    "the summand is convolved after dropout": lambda m, x: m.a(m.dropout(x)) + x,
    "the summand is read again": lambda m, x: m.c(m.b(m.a(x)) + x) + x,
    "broadcast over pixels": lambda m, x: m.relu(m.a(x) + x.mean((2, 3), keepdim=True)),
    "broadcast over images": lambda m, x: m.relu(m.a(x) + x.mean(0, keepdim=True)),
    "broadcast over channels": lambda m, x: m.relu(m.a(x) + x[:, :1]),
    "a parameter of an image's shape": lambda m, x: m.relu(m.a(x) + m.like_an_image),
    "a parameter of a pixel's shape": lambda m, x: m.relu(m.a(x) + m.like_a_pixel),
}
RAISING: dict[str, Body] = {  # in torch's fusion
    "a number": lambda m, x: m.relu(m.a(x) + 1),
    "a number, then another convolution": lambda m, x: m.relu((m.a(x) + 1) + m.b(x)),
}


def listed(where: dict[str, Body]) -> Callable[[Body], Body]:
    """List a function under its name."""
    return lambda body: where.setdefault(body.__name__.replace("_", " ").strip(), body)


@listed(RAISING)
def twice_itself(m: Network, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.relu(y + y)


@listed(UNSAFE)
def dropout_of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = m.dropout(x)
    return m.c(m.b(m.a(x)) + x) + again


@listed(UNSAFE)
def flatten_of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = x.flatten(1)
    return m.c(m.b(m.a(x)) + x) + again.view(-1, 8, 8, 8)


@listed(UNSAFE)
def flatten_of_it_by_keyword_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = torch.flatten(input=x, start_dim=2)
    return m.c(m.b(m.a(x)) + x) + again.view(-1, 8, 8, 8)


@listed(UNSAFE)
def permutation_of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = x.permute(0, 1, 3, 2)
    return m.c(m.b(m.a(x)) + x) + again


@listed(UNSAFE)
def slice_of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = x[:, :8]
    return m.c(m.b(m.a(x)) + x) + again


@listed(UNSAFE)
def chunk_of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return m.c(m.b(m.a(x)) + x) + torch.cat([second, first], 1)


@listed(UNSAFE)
def it_is_read_again_where_it_is_contiguous(m: Network, x: Tensor) -> Tensor:
    again = x.contiguous()
    return m.c(m.b(m.a(x)) + x) + again


@listed(UNSAFE)
def a_convolution_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = m.a(x)
    return again + m.b(x) + again


@listed(UNSAFE)
def relu_of_it_in_place_is_read_again(m: Network, x: Tensor) -> Tensor:
    x = m.pool(x)
    again = m.relu_in_place(x)
    return (m.b(m.a(again)) + x) + again


@listed(UNSAFE)
def what_relu_in_place_got_is_read_again(m: Network, x: Tensor) -> Tensor:
    again = m.pool(x)
    x = m.relu_in_place(again)
    return (m.b(m.a(x)) + x) + again


@listed(UNSAFE)
def functional_relu_of_it_in_place_is_read_again(m: Network, x: Tensor) -> Tensor:
    x = m.pool(x)
    again = F.relu(x, inplace=True)
    return (m.b(m.a(again)) + x) + again


@listed(UNSAFE)
def relu__of_it_is_read_again(m: Network, x: Tensor) -> Tensor:
    x = m.pool(x)
    again = x.relu_()
    return (m.b(m.a(again)) + x) + again


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return miniature.vary(Network((SAFE | UNSAFE | RAISING)[name])).eval()


def fuse_all(model: nn.Module) -> GraphModule:
    """Fuse in torch's own words, without a thought."""
    example = torch.zeros(1, 3, miniature.SIZE, miniature.SIZE)
    with without_torch_warnings():
        mapping, backend = get_default_qconfig_mapping("onednn"), get_onednn_backend_config()
        return prepare_fx(copy.deepcopy(model), mapping, (example,), backend_config=backend)


def quantized(model: nn.Module, inputs: list[Tensor]) -> Quantized:
    params = convert_params(engine="onednn", head="int8", activation={"method": "minmax"})
    return quantize(model, miniature.card(), params, collect(model, inputs), miniature.split(40))


def run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("name", SAFE)
def test_a_fused_addition_returns_what_an_unfused_one_returns_but_for_two_steps(
    name: str, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = make(name), torch.cat(inputs)

    fused = quantized(model, inputs)
    monkeypatch.setattr(prepare_module, "additions_are_safe", lambda *_: False)
    unfused = quantized(model, inputs)

    assert fused_additions(fused.prepared)
    assert not fused_additions(unfused.prepared)
    fp32, outputs = run(model, images), [run(each.converted, images) for each in (fused, unfused)]
    step = list(fused.qparams.values())[-1].scale
    assert (outputs[0] - outputs[1]).abs().max() < 2.1 * step
    assert (outputs[0] - outputs[1]).abs().mean() < 0.3 * step
    better, good = (sqnr_db(output, fp32) for output in outputs)  # one rounding less
    assert better
    assert good
    assert better > good > decibels(35, "onednn")


@pytest.mark.parametrize("name", UNSAFE)
def test_an_addition_that_would_go_wrong_is_not_fused_and_the_result_is_right(name: str, inputs: list[Tensor]) -> None:
    model, images = make(name), torch.cat(inputs)

    prepared = fuse_all(model)
    assert fused_additions(prepared)
    assert not additions_are_safe(prepared, miniature.INPUT_SHAPE)
    result = quantized(model, inputs)
    assert not fused_additions(result.prepared)
    ratio = sqnr_db(run(result.converted, images), run(model, images))
    assert ratio
    assert ratio > 25


@pytest.mark.parametrize("name", RAISING)
def test_an_addition_that_torch_cannot_fuse_is_not_fused_and_the_result_is_right(
    name: str, inputs: list[Tensor]
) -> None:
    model, images = make(name), torch.cat(inputs)

    with pytest.raises((AttributeError, ValueError)):
        fuse_all(model)
    result = quantized(model, inputs)
    assert not fused_additions(result.prepared)
    ratio = sqnr_db(run(result.converted, images), run(model, images))
    assert ratio
    assert ratio > 25


def test_a_network_without_additions_is_safe() -> None:
    prepared = prepare(miniature.normed(6).eval(), miniature.INPUT_SHAPE, ONEDNN)

    assert fused_additions(prepared) == []
    assert additions_are_safe(prepared, miniature.INPUT_SHAPE)


@pytest.mark.parametrize("name", ["conv + x", "a parameter of an image's shape"])
def test_the_other_engines_fuse_no_addition(name: str) -> None:
    for engine in ENGINES:
        prepared = prepare(
            make(name), miniature.INPUT_SHAPE, EVERYTHING.model_copy(update={"engine": engine, "fuse_additions": True})
        )
        assert bool(fused_additions(prepared)) is (engine == "onednn" and name in SAFE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "the summand is read again",
        "dropout of it is read again",
        "permutation of it is read again",
        "a convolution is read again",
        "relu of it in place is read again",
        "what relu in place got is read again",
        "broadcast over pixels",
        "broadcast over images",
        "a parameter of an image's shape",
    ],
)
def test_what_is_refused_goes_wrong_when_it_is_fused_all_the_same(name: str, tmp_path: Path) -> None:
    """In a process of its own, which a wrong write of the kernel may end."""
    roots = [str(Path(module.__file__).parents[level]) for module, level in ((ptqflow, 1), (miniature, 0))]
    script = subprocess.run(
        [sys.executable, __file__, name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert script.returncode < 0 or float(script.stdout) < 20, script.stderr


def main(name: str) -> None:
    """Print the SQNR of the INT8 network with its additions fused."""
    prepare_module.additions_are_safe = lambda *_: True
    inputs = list(to_input(torch.from_numpy(miniature.images(40)), miniature.NORMALIZATION).split(8))
    model = make(name)
    result = quantized(model, inputs)
    assert fused_additions(result.prepared)
    print(sqnr_db(run(result.converted, torch.cat(inputs)), run(model, torch.cat(inputs))))


if __name__ == "__main__":
    main(sys.argv[1])
