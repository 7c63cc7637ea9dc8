"""What follows the training is tried before it, with the parts that the stages run."""

import random
import sys
from importlib.util import find_spec
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from exporting import PARAMS
from fresh_process import collect, convert_params
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.core.errors import ModelError, ParamsError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.dataset import Split, digests_of
from ptqflow.data.preprocessing import to_input
from ptqflow.dry_run.trial import try_network
from ptqflow.fx.layers import list_layers
from ptqflow.models.architecture import hash_code
from ptqflow.models.canonical import canonicalize

TRAIN = miniature.split(8)


class Noised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(3, 8, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.noise


class Applied(nn.Module):
    """Applies a function to the images."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def followed_by_classifier(first: nn.Module, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Sequential(first), nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))


def noised(num_classes: int) -> nn.Module:
    return followed_by_classifier(Noised(), num_classes)


def of_random_width(num_classes: int) -> nn.Module:
    width = random.randrange(10**9) % 9973 + 1
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.Linear(width, num_classes))


def branching(num_classes: int) -> nn.Module:
    return followed_by_classifier(Applied(lambda x: x if x.sum() > 0 else -x), num_classes)


def exploding(num_classes: int) -> nn.Module:
    return followed_by_classifier(Applied(lambda x: x * 1e30 * 1e30), num_classes)


def scaled(num_classes: int) -> nn.Module:
    scale = Applied(lambda x: F.interpolate(x, (8, 8), mode="nearest-exact"))
    return followed_by_classifier(nn.Sequential(nn.Conv2d(3, 3, 1), scale), num_classes)


def last_layer_alone(num_classes: int) -> nn.Module:
    return followed_by_classifier(nn.Identity(), num_classes)


def product(num_classes: int) -> nn.Module:
    class OwnProduct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((num_classes, 3 * 8 * 8), 0.01))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,oi->bo", x.flatten(1), self.weight)

    return OwnProduct()


def as_hugging_face(num_classes: int) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = miniature.residual(num_classes)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor | None]:
            return {"loss": None, "logits": self.network(pixel_values)}

    return Wrapped()


def try_miniature(name: str, convert: ConvertParams | None = None, *, onnx: bool = True) -> list[str]:
    card = miniature.card().model_copy(update={"name": name, "code_sha256": hash_code(name)})
    export = PARAMS.model_copy(update={"onnx": onnx})
    return [
        f"{layer.precision} {layer.name}" for layer in try_network(card, convert or convert_params(), export, TRAIN)
    ]


@pytest.fixture(autouse=True)
def _as_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "untried", sys.modules[__name__])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("function", ["residual", "normed", "gated"])
def test_the_layers_are_those_of_the_conversion_after_the_training(function: str, tmp_path: Path) -> None:
    params = convert_params(activation={"method": "entropy"}, weight={"method": "mse"}, bias_correction=True)
    card = miniature.card(function)
    model = canonicalize(getattr(miniature, function)(len(miniature.CLASSES)).eval(), miniature.INPUT_SHAPE)
    batches = list(to_input(torch.from_numpy(miniature.images(32)), card.normalization).split(8))
    made = quantize(model, card, params, collect(model, batches), miniature.split(32))
    expected = [f"{layer.precision} {layer.name}" for layer in list_layers(model, made.converted)]

    assert try_miniature(f"miniature:{function}", params) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("noised", r"Sequential computes .*: 0.0.noise, a buffer with persistent=False, is outside the state_dict; "),
        ("of_random_width", r"model.name: .*:of_random_width is another network each time that it is built "),
        ("branching", r"torch.fx cannot trace Sequential: .* depends on values of the input "),
        ("exploding", r"model.name: .*:exploding returns logits that are not finite before it is trained; "),
        ("scaled", r".*interpolate.* cannot be written as ONNX .*; set export.onnx=false"),
    ],
)
def test_what_would_be_refused_after_the_training_is_one_line_before_it(function: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{message}") as refusal:
        try_miniature(f"untried:{function}")
    assert "\n" not in str(refusal.value)


def test_without_onnx_a_network_may_have_what_onnx_has_not() -> None:
    assert try_miniature("untried:scaled", onnx=False)


@pytest.mark.parametrize("changes", [{"keep_fp32": ["layer9.*"]}, {"overrides": {"layer9.*": "entropy"}}])
def test_patterns_that_match_nothing_are_refused_before_the_training(changes: dict[str, object]) -> None:
    with pytest.raises(ParamsError, match=r"layer9\.\*"):
        try_miniature("miniature:residual", convert_params(**changes))


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("miniature:residual", {"keep_fp32": ["*"]}, "convert.keep_fp32=['*'] leaves no layer to quantize; name fewer"),
        (
            "untried:product",
            {"head": "int8"},
            "model.name: untried:product has no layer that can be quantized",
        ),
        ("untried:last_layer_alone", {"head": "auto"}, "convert.head=auto leaves no layer to quantize; set it to int8"),
    ],
)
def test_a_network_of_which_all_stays_fp32_is_refused_before_the_training(
    function: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError) as refusal:
        try_miniature(function, convert_params(**changes))
    assert str(refusal.value) == message


def test_the_remedy_for_a_network_of_its_last_layer_alone_works() -> None:
    assert try_miniature("untried:last_layer_alone", convert_params(head="int8"))


def test_a_classifier_that_returns_a_dict_as_hugging_faces_has_the_layers_of_its_network() -> None:
    wrapped = [layer.replace("network.", "") for layer in try_miniature("untried:as_hugging_face")]
    assert wrapped == try_miniature("miniature:residual")


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.filterwarnings("ignore")  # of timm and torch about the network
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "nfnet", pytest.param("vit2", marks=pytest.mark.slow)])
def test_networks_that_timm_has_for_tests_go_all_the_way(name: str) -> None:
    """Batch norms with activations, padding as in TensorFlow, standardized weights, attention."""
    size = 64
    card = miniature.card().model_copy(
        update={"name": f"timm:test_{name}", "code_sha256": None, "preprocessing": Preprocessing.default((size, size))}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    train = Split(pixels, np.zeros(2, np.int64), digests_of(pixels))
    layers = try_network(card, convert_params(), PARAMS, train)
    assert not [layer for layer in layers if "batch_norm" in layer.operation.lower()]
    assert sum(layer.precision == "int8" for layer in layers) > len(layers) / 4
