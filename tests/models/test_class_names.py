import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision import models
from weights_files import save_safetensors, save_zip

from ptqflow.core.errors import ModelError
from ptqflow.models.class_names import find_class_names
from ptqflow.models.params import ModelParams

SHAPE = (3, 32, 32)


def params(**changes: object) -> ModelParams:
    values = {"name": "resnet18", "weights": "weights.pt", "stem": "standard", "mean": None, "std": None}
    return ModelParams.model_validate(values | changes)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a ResNet-18 with 7 classes, as a wrapper around it saves them."""
    torch.manual_seed(0)
    state = models.resnet18(weights=None, num_classes=7).state_dict()
    save_zip({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "weights.pt")  # type: ignore[dict-item]
    return tmp_path / "weights.pt"


def test_classes_are_counted_in_the_last_layer_of_the_weights_and_numbered(weights: Path) -> None:
    assert find_class_names(params(), weights, SHAPE) == tuple("0123456")


def test_names_are_those_of_the_file_in_its_order(weights: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n\n  sea lion \nKäfer\na\nb\nc\n")
    found = find_class_names(params(classes=str(names)), weights, SHAPE)
    assert found == ("cat", "dog", "sea lion", "Käfer", "a", "b", "c")


def test_weights_of_a_thousand_classes_that_torchvision_describes_have_its_names(tmp_path: Path) -> None:
    save_safetensors(models.resnet18(weights=None).state_dict(), tmp_path / "weights.safetensors")
    names = find_class_names(params(preprocessing="torchvision:IMAGENET1K_V1"), tmp_path / "weights.safetensors", SHAPE)
    categories = models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(set(names)) == 1000
    assert [name.split(" (")[0] for name in names[:3]] == categories[:3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"cat\ndog\n", "holds 2 names, and the weights are of 7 classes; write one name a line for each"),
        (b"cat\n" * 7, "holds 'cat' more than once"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_names_that_do_not_fit_are_one_line(weights: Path, tmp_path: Path, text: bytes, words: str) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(text)
    with pytest.raises(ModelError, match=r"model\.classes: ") as error:
        find_class_names(params(classes=str(names)), weights, SHAPE)
    assert words in str(error.value)


def test_a_file_of_names_that_does_not_exist_is_named(weights: Path) -> None:
    with pytest.raises(
        ModelError, match=r"model\.classes: nowhere\.txt does not exist; set it to a text file, or to null"
    ):
        find_class_names(params(classes="nowhere.txt"), weights, SHAPE)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, partial(os.symlink, "/dev/zero")], ids=["pipe", "folder", "device"]
)
def test_what_is_no_file_of_names_is_one_line_at_once(
    weights: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "names")
    with pytest.raises(ModelError) as error:
        find_class_names(params(classes=str(tmp_path / "names")), weights, SHAPE)
    said = "is no file: a pipe, a device or a folder; set it to a text file, or to null"
    assert str(error.value) == f"model.classes: {tmp_path / 'names'} {said}"
