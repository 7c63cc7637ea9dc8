"""The trained network on disk: weights, and a card with all that later stages need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ptqflow.core.artifacts import REMEDY, Card, HashedFile, new_directory
from ptqflow.core.errors import ArtifactError
from ptqflow.core.normalization import InputShape, Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.canonical import canonicalize
from ptqflow.models.memory_format import lay_out
from ptqflow.models.same_network import require_same_network


class ModelCard(Card):
    """The architecture, classes and input of a network; lies beside its weights."""

    format_version: Literal[3] = 3
    name: str
    stem: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    """Of the images."""
    normalization: Normalization
    """Of the input."""
    code_sha256: str | None
    """Hex SHA-256 of the user's module, None for a torchvision classifier."""
    weights_sha256: str = ""
    """Hex SHA-256 of the weights' file."""

    @property
    def input_shape(self) -> InputShape:
        """Channels, height and width of an image."""
        return self.preprocessing.input_shape


@dataclass(frozen=True)
class Fp32Model:
    """The trained network, on the CPU and in evaluation mode."""

    module: nn.Module
    card: ModelCard


WEIGHTS = HashedFile("weights.safetensors", ModelCard, "weights_sha256", "train")


def build_from_card(card: ModelCard) -> nn.Module:
    """Build the user's network that a card describes, with random weights, in evaluation mode.

    Raises:
        ArtifactError: the user's module has changed since the card was written.
    """
    if hash_code(card.name) != card.code_sha256:
        raise ArtifactError(
            f"model.name: the code of {card.name} has changed since an earlier stage ran; run `dvc repro`"
        )
    return build_model(card.name, card.stem, len(card.classes), card.input_shape).eval()


def save_fp32(directory: Path, model: nn.Module, card: ModelCard, images: Tensor) -> None:
    """Write weights and card, whole or not at all; equal weights make equal bytes.

    What was written is read back and compared with the network on `images` first.

    Args:
        directory: that is written.
        model: the user's; is moved to the CPU, set to evaluation mode and laid out contiguously.
        card: of the model.
        images: float32 (N, C, H, W), normalized.

    Raises:
        ModelError: the weights do not determine the network, or it cannot be traced.
    """
    model.cpu().eval()
    lay_out(model, torch.contiguous_format)  # as what is read back
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    with new_directory(directory) as partial:
        WEIGHTS.write(partial, safetensors.torch.save(state), card)
        reloaded = _load(partial)
        require_same_network(model, reloaded.module, canonicalize(reloaded.module, card.input_shape), images)


def load_fp32(directory: Path) -> Fp32Model:
    """Return the network that `save_fp32` wrote, in its canonical form.

    Raises:
        ArtifactError: a file is missing or changed, or the user's code has changed.
    """
    loaded = _load(directory)
    return Fp32Model(canonicalize(loaded.module, loaded.card.input_shape), loaded.card)


def _load(directory: Path) -> Fp32Model:
    data, card = WEIGHTS.read(directory)
    module = build_from_card(card)
    state = module.state_dict()
    state.clear()  # keeps the version numbers of torch's modules, which safetensors does not have
    try:
        state.update(safetensors.torch.load(data))
        module.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{WEIGHTS.path(directory)} does not fit {card.name} ({error}); {REMEDY}") from None
    return Fp32Model(module, card)
