"""The trained network on disk: weights, and a card that says all a later stage needs."""

from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from ptqflow.core.artifacts import Card, new_directory, read_card, sha256_file, write_bytes, write_card
from ptqflow.core.errors import ArtifactError
from ptqflow.models.architecture import build_model, hash_code


class ModelCard(Card):
    """What a network is, beside its weights."""

    format_version: Literal[1] = 1
    name: str
    stem: str
    classes: tuple[str, ...]
    image_size: int
    """Height and width of the images in pixels."""
    mean: tuple[float, float, float]
    """Channel mean to normalize with, pixels in 0..1."""
    std: tuple[float, float, float]
    """Channel standard deviation to normalize with."""
    code_sha256: str | None
    """Hash of the user's module, None for a torchvision classifier."""
    weights_sha256: str = ""
    """Hash of the weights' file."""


def weights_file(directory: Path) -> Path:
    """Return the file that holds the FP32 weights."""
    return directory / "weights.safetensors"


def build_from_card(card: ModelCard) -> nn.Module:
    """Build the network that a card describes, with random weights, in evaluation mode.

    Raises:
        ArtifactError: the user's module is not the one that the network was trained with.
    """
    if hash_code(card.name) != card.code_sha256:
        raise ArtifactError(f"model.name: the code of {card.name} has changed since `train` ran; run `dvc repro`")
    return build_model(card.name, card.stem, len(card.classes), card.image_size).eval()


def save_fp32(directory: Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card, whole or not at all, with equal bytes for equal weights."""
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    with new_directory(directory) as partial:
        write_bytes(weights_file(partial), safetensors.torch.save(state))
        write_card(
            partial / "card.json", card.model_copy(update={"weights_sha256": sha256_file(weights_file(partial))})
        )


def load_fp32(directory: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild the network on the CPU, in evaluation mode.

    Raises:
        ArtifactError: a file is missing or changed, or the user's code has changed.
    """
    card = read_card(directory / "card.json", ModelCard)
    file = weights_file(directory)
    if not file.exists() or sha256_file(file) != card.weights_sha256:
        raise ArtifactError(f"{file} is missing or not the file that `train` wrote; run `dvc repro`")
    model = build_from_card(card)
    state = model.state_dict()
    state.clear()  # but keeps the version numbers of torch's modules, which safetensors does not have
    try:
        state.update(safetensors.torch.load(file.read_bytes()))
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{file} does not fit {card.name} ({error}); run `dvc repro`") from None
    return model, card
