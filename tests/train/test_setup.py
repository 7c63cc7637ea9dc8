import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import miniature
import pytest
import torch
from imports import closure
from miniature import DATASET_CARD
from recipes import params
from safetensors.torch import save_file

from ptqflow.core.code import hash_packages
from ptqflow.core.errors import ArtifactError, LaunchError, ModelError, ParamsError
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.train.setup import (
    build_network,
    fingerprint,
    prepare,
    require_equal_inputs,
    resolve_recipe,
)


def test_a_training_starts_from_the_network_of_its_card_with_the_recipe_of_the_data_set() -> None:
    card = miniature.card()
    start = prepare(card, params(), DATASET_CARD, None)
    assert start.recipe == resolve_recipe(card, params(), DATASET_CARD)
    expected = build_network(card, None, params()).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in start.network.model.state_dict().items())


def test_a_network_whose_code_was_edited_since_the_dry_run_is_refused() -> None:
    card = miniature.card().model_copy(update={"code_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match="the code of miniature:residual has changed since an earlier stage ran"):
        prepare(card, params(), DATASET_CARD, None)


def test_a_recipe_mirrors_as_asked_or_as_the_data_set_allows() -> None:
    card = miniature.card()
    assert resolve_recipe(card, params(), DATASET_CARD).horizontal_flip
    assert not resolve_recipe(card, params(horizontal_flip=False), DATASET_CARD).horizontal_flip
    assert resolve_recipe(card, params(), DATASET_CARD).normalization == card.normalization


def test_a_cutout_as_large_as_the_images_is_refused() -> None:
    card = miniature.card()
    resolve_recipe(card, params(cutout=7), DATASET_CARD)
    with pytest.raises(ParamsError, match=r"train\.cutout is 8, the images have 8x8 pixels; it must be less"):
        resolve_recipe(card, params(cutout=8), DATASET_CARD)


def save_weights(file: Path, classes: int) -> Path:
    save_file(miniature.residual(classes).state_dict(), file)
    return file


@pytest.mark.parametrize(("epochs", "classes"), [(1, None), (1, 4), (0, len(miniature.CLASSES))])
def test_a_network_is_built_from_random_weights_or_the_users(tmp_path: Path, epochs: int, classes: int | None) -> None:
    weights = save_weights(tmp_path / "weights.safetensors", classes) if classes else None
    start = build_network(miniature.card(), weights, params(epochs=epochs))
    assert start.note is None
    assert start.model(torch.zeros(1, 3, miniature.SIZE, miniature.SIZE)).shape == (1, len(miniature.CLASSES))


def test_what_was_done_to_the_users_weights_is_one_line_with_the_path_of_their_file(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in miniature.residual(6).half().state_dict().items()}
    (tmp_path / "weights").symlink_to("last.ckpt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "weights")

    assert build_network(miniature.card(), tmp_path / "weights", params(epochs=0)).note == (
        f"model.weights: {tmp_path / 'last.ckpt'}: took ['state_dict'], left epoch; "
        "removed the prefix model. from its names; converted 12 of 14 tensors from float16 to float32"
    )


def test_without_epochs_weights_are_needed_with_a_head_that_fits(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"train.epochs=0 keeps model.weights unchanged, and model.weights is null"):
        build_network(miniature.card(), None, params(epochs=0))
    weights = save_weights(tmp_path / "weights.safetensors", 4)
    with pytest.raises(ModelError, match=r"head for another number of classes, .* set train.epochs to 1 or more"):
        build_network(miniature.card(), weights, params(epochs=0))


def test_a_fingerprint_changes_with_the_network_the_recipe_the_data_and_the_weights(tmp_path: Path) -> None:
    card, weights = miniature.card(), save_weights(tmp_path / "weights.safetensors", 4)
    first = fingerprint(card, params(), DATASET_CARD, weights)

    others = [
        fingerprint(card.model_copy(update={"stem": "small"}), params(), DATASET_CARD, weights),
        fingerprint(card, params(lr=0.06), DATASET_CARD, weights),
        fingerprint(card, params(), DATASET_CARD.model_copy(update={"sha256": {"train": "ab"}}), weights),
        fingerprint(card, params(), DATASET_CARD, save_weights(tmp_path / "weights.safetensors", 3)),
        fingerprint(card, params(), DATASET_CARD, None),
    ]
    assert first not in others
    assert len({str(other) for other in others}) == len(others)


def test_the_code_of_a_fingerprint_is_that_of_all_packages_that_training_imports() -> None:
    assert fingerprint(miniature.card(), params(), DATASET_CARD, None)["code"] == hash_packages(closure(["train"]))


def test_a_fingerprint_is_json_and_the_same_again_whatever_is_imported_meanwhile() -> None:
    first = fingerprint(miniature.card(), params(), DATASET_CARD, None)
    importlib.import_module("ptqflow.report.results")
    assert json.loads(json.dumps(first)) == first == fingerprint(miniature.card(), params(), DATASET_CARD, None)


@dataclass(frozen=True)
class Gathered(Ranks):
    """Ranks whose other member has sent these bytes."""

    other: bytes = b""

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data, self.other]


def test_ranks_may_differ_in_their_machines_and_in_nothing_else() -> None:
    inputs = fingerprint(miniature.card(), params(), DATASET_CARD, None)
    of_machine = {"cpu", "threads", "gpu"}
    shared = {name: value for name, value in inputs.items() if name not in of_machine}
    assert require_equal_inputs(ALONE, inputs) == inputs
    require_equal_inputs(Gathered(0, 2, json.dumps(shared).encode()), inputs | dict.fromkeys(of_machine, "other"))
    for name in shared:
        other = json.dumps(shared | {name: "other"}).encode()
        with pytest.raises(LaunchError, match=f"rank 1 differs from rank 0 in {name}; every host needs"):
            require_equal_inputs(Gathered(0, 2, other), inputs)
