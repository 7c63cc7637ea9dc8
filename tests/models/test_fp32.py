import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import miniature
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ptqflow.core.errors import ArtifactError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.fp32 import WEIGHTS, ModelCard, load_fp32, save_fp32


def images(size: int) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path, network: nn.Module) -> Path:
    save_fp32(tmp_path / "fp32", network, miniature.card(), images(miniature.SIZE))
    return tmp_path / "fp32"


def test_a_network_comes_back_bit_for_bit_in_evaluation_mode(saved: Path, network: nn.Module) -> None:
    fp32 = load_fp32(saved)
    loaded, card = fp32.module, fp32.card

    state = network.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in state.items())
    assert not any(module.training for module in loaded.modules())
    assert card.model_copy(update={"weights_sha256": ""}) == miniature.card()


def test_equal_weights_make_equal_bytes_whatever_their_layout(saved: Path, network: nn.Module) -> None:
    again = saved.with_name("again")
    save_fp32(again, network.to(memory_format=torch.channels_last).train(), miniature.card(), images(miniature.SIZE))

    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in saved.iterdir()
    }


def test_a_network_that_checks_the_version_of_its_state_comes_back(tmp_path: Path) -> None:
    model = build_model("mnasnet0_5", "standard", len(miniature.CLASSES), (3, 32, 32))
    card = miniature.card().model_copy(
        update={"name": "mnasnet0_5", "preprocessing": Preprocessing.default((32, 32)), "code_sha256": None}
    )
    save_fp32(tmp_path / "fp32", model, card, images(card.preprocessing.width))

    loaded = load_fp32(tmp_path / "fp32").module
    assert torch.equal(loaded.state_dict()["layers.0.weight"], model.state_dict()["layers.0.weight"])


TIED = """
from torch import nn


def build(num_classes):
    first, second, head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, num_classes, 1)
    second.weight = first.weight
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(first, norm, second, norm, head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_a_network_with_tied_weights_comes_back_bit_for_bit(tmp_path: Path, user_module: Callable[[str], str]) -> None:
    name = f"{user_module(TIED)}:build"
    card = miniature.card().model_copy(update={"name": name, "code_sha256": hash_code(name)})
    model = miniature.vary(build_model(name, "standard", len(card.classes), card.input_shape))
    save_fp32(tmp_path / "fp32", model, card, images(card.preprocessing.width))

    loaded = load_fp32(tmp_path / "fp32").module
    with torch.inference_mode():
        assert torch.equal(loaded(images(card.preprocessing.width)), model(images(card.preprocessing.width)))
    written = load_file(WEIGHTS.path(tmp_path / "fp32"))
    assert torch.equal(written["0.weight"], written["2.weight"])


def test_a_changed_byte_in_the_weights_is_found(saved: Path) -> None:
    data = bytearray(WEIGHTS.path(saved).read_bytes())
    data[-1] ^= 1
    WEIGHTS.path(saved).write_bytes(data)

    with pytest.raises(ArtifactError, match=r"weights.safetensors is missing or not the file that `train` wrote"):
        load_fp32(saved)


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()

    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load_fp32(saved)


@pytest.mark.parametrize(
    ("key", "value"), [("format_version", 1), ("classes", None), ("from_the_future", 1), ("preprocessing", "8")]
)
def test_a_card_of_another_version_is_refused_by_key(saved: Path, key: str, value: object) -> None:
    card = json.loads((saved / "card.json").read_text())
    (saved / "card.json").write_text(json.dumps(card | {key: value}))

    with pytest.raises(ArtifactError, match=rf"card.json: {key}: .*run `ptqflow repair`"):
        load_fp32(saved)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_that_do_not_fit_the_network_are_refused(saved: Path, change: str) -> None:
    state = load_file(WEIGHTS.path(saved))
    if change == "missing":
        del state["conv2.weight"]
    else:
        state["conv3.weight"] = torch.zeros(1)
    save_file(state, WEIGHTS.path(saved))
    card = json.loads((saved / "card.json").read_text())
    card["weights_sha256"] = hashlib.sha256(WEIGHTS.path(saved).read_bytes()).hexdigest()
    (saved / "card.json").write_text(json.dumps(card))

    with pytest.raises(
        ArtifactError, match=r"(?s)does not fit miniature:residual .*conv\d.weight.*run `ptqflow repair`"
    ):
        load_fp32(saved)


def test_changed_user_code_is_found(tmp_path: Path, user_module: Callable[[str], str]) -> None:
    code = "from miniature import residual as build\n"
    name = f"{user_module(code)}:build"
    card: ModelCard = miniature.card().model_copy(update={"name": name, "code_sha256": hash_code(name)})
    save_fp32(
        tmp_path / "fp32",
        build_model(name, "standard", len(card.classes), card.input_shape),
        card,
        images(miniature.SIZE),
    )
    load_fp32(tmp_path / "fp32")

    (tmp_path / f"{name.partition(':')[0]}.py").write_text(code + "depth = 2\n")
    with pytest.raises(ArtifactError, match=f"the code of {name} has changed since an earlier stage ran"):
        load_fp32(tmp_path / "fp32")
