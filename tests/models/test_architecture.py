import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ptqflow.core.errors import ModelError
from ptqflow.models.architecture import build_model, hash_code

UserModule = Callable[[str], str]

NETWORK = """
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
"""

CONVOLUTION = """
from torch import nn
def network(in_channels, num_classes):
    return nn.Sequential(nn.Conv2d(in_channels, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("resnet18", 32), ("mobilenet_v3_small", 32), ("squeezenet1_1", 32), ("vit_b_16", 16), ("googlenet", 64)],
)
def test_torchvision_classifiers_return_one_score_a_class(name: str, image_size: int) -> None:
    model = build_model(name, "standard", 7, (3, image_size, image_size))

    with torch.inference_mode():
        scores = model(torch.rand(2, 3, image_size, image_size))
    assert scores.shape == (2, 7)


def test_random_weights_come_from_torchs_global_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_model("squeezenet1_1", "standard", 3, (3, 32, 32)).state_dict()["features.0.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_unknown_name_suggests_similar_ones() -> None:
    with pytest.raises(ModelError, match=r"'resnet81' is not a torchvision classifier; similar ones: .*resnet18.*; "):
        build_model("resnet81", "standard", 10, (3, 32, 32))


def test_a_name_similar_to_none_suggests_common_ones() -> None:
    with pytest.raises(ModelError, match="similar ones: resnet18, mobilenet_v2"):
        build_model("???", "standard", 10, (3, 32, 32))


@pytest.mark.parametrize("name", ["fcn_resnet50", "r3d_18", "raft_small"])
def test_torchvision_networks_that_classify_no_images_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not a torchvision classifier"):
        build_model(name, "standard", 10, (3, 32, 32))


def test_a_vision_transformer_of_torchvision_refuses_images_that_are_no_squares_in_one_line() -> None:
    with pytest.raises(
        ModelError, match=r"vit_b_16 takes square images, .* 64x32 pixels; set data\.image_size to one"
    ) as refusal:
        build_model("vit_b_16", "standard", 10, (3, 64, 32))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "image_size"), [("alexnet", 32), ("vit_b_16", 40)])
def test_images_of_an_impossible_size_are_refused_in_one_line(name: str, image_size: int) -> None:
    with pytest.raises(ModelError, match=rf"={name} cannot .* images of {image_size}x{image_size}") as refusal:
        build_model(name, "standard", 10, (3, image_size, image_size))

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_torchvision_network_takes_three_channels_alone(name: str, channels: int) -> None:
    with pytest.raises(ModelError) as refusal:
        build_model(name, "standard", 10, (channels, 32, 32))

    assert str(refusal.value) == (
        f"model.name={name} takes images of 3 channels, as all of torchvision's networks, and those of the data set "
        f"have {channels}; set data.channels to 3, or model.name to module:function of your own with "
        f"in_channels={channels}"
    )


@pytest.mark.parametrize(
    ("expected", "channels", "remedy"),
    [
        (1, 3, "set data.channels to 1"),
        (3, 1, "set data.channels to 3"),
        (4, 1, "set data.channels to 4"),
        (2, 4, "data.channels is 1, 3 or 4: let the network compute its 2 from them first"),
    ],
)
def test_a_network_for_another_number_of_channels_says_which_data_fit(
    user_module: UserModule, expected: int, channels: int, remedy: str
) -> None:
    name = f"{user_module(f'{CONVOLUTION}def build(num_classes): return network({expected}, num_classes)')}:build"

    with pytest.raises(ModelError) as refusal:
        build_model(name, "standard", 5, (channels, 8, 8))

    assert str(refusal.value) == (
        f"model.name={name} takes images with in_channels={expected} (0), and those of the data set have {channels}; "
        f"{remedy}"
    )
    if expected in (1, 3, 4):
        model = build_model(name, "standard", 5, (expected, 8, 8))
        assert model(torch.zeros(2, expected, 8, 8)).shape == (2, 5)


def test_a_small_stem_keeps_the_images_resolution() -> None:
    model = build_model("resnet18", "small", 10, (3, 8, 8))

    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    assert stem(torch.rand(2, 3, 8, 8)).shape == (2, 64, 8, 8)
    assert model.conv1.kernel_size == (3, 3)
    assert model.conv1.bias is None


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "densenet121"])
def test_a_small_stem_is_refused_where_there_is_no_resnet_stem(name: str) -> None:
    with pytest.raises(ModelError, match=f"model.stem=small: {name} has no ResNet stem"):
        build_model(name, "small", 10, (3, 64, 64))


def test_a_function_in_the_current_directory_builds_the_network(user_module: UserModule) -> None:
    model = build_model(f"{user_module(NETWORK)}:build", "standard", 5, (3, 8, 8))

    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "is not a function"),
        ("build = 3", "is not a function"),
        ("import no_such_package", "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')"),
        ("def build(:", "cannot be imported (SyntaxError"),
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("import sys\nsys.exit(3)", "cannot be imported (SystemExit: 3)"),
        ("def build(num_classes): raise SystemExit(3)", "raised SystemExit: 3"),
        ("def build(classes): ...", "raised TypeError"),
        ("def build(num_classes):\n    raise KeyError('depth')", "raised KeyError: 'depth'"),
        ("def build(num_classes): return 'network'", "returned str, not a torch.nn.Module"),
        (NETWORK.replace("8, num_classes", "8, num_classes + 1"), "returns (2, 6) for two images"),
        ("from torch import nn\ndef build(num_classes): return nn.LSTM(8, 5)", "cannot take images of 8x8"),
        ("from torch import nn\ndef build(num_classes): return nn.Module()", "NotImplementedError"),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return {'out': x}\n"
            "def build(num_classes): return Net()",
            "returns dict for two images",
        ),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return self.layers(x)\n"
            "def build(num_classes): return Net()",
            "AttributeError",
        ),
    ],
)
def test_each_mistake_in_the_users_code_is_one_line(user_module: UserModule, code: str, message: str) -> None:
    name = f"{user_module(code)}:build"

    with pytest.raises(ModelError) as refusal:
        build_model(name, "standard", 5, (3, 8, 8))

    assert name in str(refusal.value)
    assert message in str(refusal.value)


@pytest.mark.parametrize("file", ["__init__.py", "network.py", "blocks.py"])
@pytest.mark.parametrize(
    ("code", "error"),
    [("def build(:\n", "SyntaxError"), ("<<<<<<< HEAD\n", "SyntaxError"), ("  x = 1\n", "IndentationError")],
    ids=["colon", "conflict", "indent"],
)
def test_a_syntax_error_anywhere_in_the_users_package_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, file: str, code: str, error: str
) -> None:
    package = f"package_{request.node.callspec.indices['file']}_{request.node.callspec.indices['code']}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "blocks.py").write_text("")
    (tmp_path / package / "network.py").write_text(f"import {package}.blocks\n{NETWORK}")
    (tmp_path / package / file).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"{package}.network:build"

    for build in (lambda: build_model(name, "standard", 5, (3, 8, 8)), lambda: hash_code(name)):
        with pytest.raises(ModelError) as refusal:
            build()
        assert str(refusal.value).startswith(f"model.name: {name} cannot be imported ({error}: ")
        assert f"({file}, line 1)" in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_missing_module_is_named(user_module: UserModule) -> None:
    with pytest.raises(ModelError, match=r"model.name: no_such_module:build cannot be imported"):
        build_model("no_such_module:build", "standard", 5, (3, 8, 8))


def test_the_hash_of_user_code_is_that_of_its_file(user_module: UserModule, tmp_path: Path) -> None:
    module = user_module(NETWORK)

    assert hash_code(f"{module}:build") == hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()
    assert hash_code("resnet18") is None


DEPRECATED = """
import warnings
from torch import nn
from torch.nn.utils import weight_norm

warnings.warn("this module is deprecated", FutureWarning)

def build(num_classes):
    return nn.Sequential(weight_norm(nn.Conv2d(3, num_classes, 8)), nn.Flatten())
"""


@pytest.mark.filterwarnings("error")
def test_what_the_users_code_calls_and_torch_deprecates_warns_of_nothing(user_module: UserModule) -> None:
    name = f"{user_module(DEPRECATED)}:build"

    hash_code(name)
    model = build_model(name, "standard", 4, (3, 8, 8))

    assert "0.weight_g" in model.state_dict()
