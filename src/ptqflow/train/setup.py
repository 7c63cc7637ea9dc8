"""Network, recipe and fingerprint of a training, from the params, the data set and the user's weights."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptqflow.core.artifacts import sha256_file
from ptqflow.core.code import hash_packages
from ptqflow.core.errors import LaunchError, ModelError, ParamsError
from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import Ranks
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams
from ptqflow.models.same_network import require_complete_state
from ptqflow.train.params import TrainParams
from ptqflow.train.pretrained import load_checkpoint
from ptqflow.train.step import Recipe

_PACKAGES = ("core", "data", "models", "train")  # that a training runs
_OF_THE_MACHINE = ("cpu", "threads", "gpu")


@dataclass(frozen=True)
class Network:
    """The network before its training."""

    model: nn.Module
    note: str | None
    """One line with what was done to take the user's weights from their file; None if nothing was."""


@dataclass(frozen=True)
class Start:
    """What a training starts from."""

    card: ModelCard
    network: Network
    recipe: Recipe


def prepare(model: ModelParams, params: TrainParams, dataset: DatasetCard, weights: Path | None) -> Start:
    """Return card, network and recipe for a data set.

    Raises:
        ModelError: see `build_network`.
        ParamsError: see `resolve_recipe`.
    """
    card = describe_model(model, dataset)
    return Start(card, build_network(card, weights, params), resolve_recipe(card, params, dataset))


def describe_model(params: ModelParams, dataset: DatasetCard) -> ModelCard:
    """Return the card of the network, with the classes, size and default normalization of the data set.

    Raises:
        ParamsError: `model.mean` has not one value per channel of the images.
    """
    normalization = dataset.normalization
    if params.mean is not None and params.std is not None:
        if len(params.mean) != dataset.channels:
            raise ParamsError(
                f"model.mean and model.std have {len(params.mean)} values each, and data.channels is "
                f"{dataset.channels}; set one value per channel, or change data.channels"
            )
        normalization = Normalization(mean=params.mean, std=params.std)
    return ModelCard(
        name=params.name,
        stem=params.stem,
        classes=dataset.classes,
        image_size=dataset.image_size,
        normalization=normalization,
        code_sha256=hash_code(params.name),
    )


def resolve_recipe(card: ModelCard, params: TrainParams, dataset: DatasetCard) -> Recipe:
    """Return the settings that `TrainParams` leaves to the data set and the model.

    Raises:
        ParamsError: cutout would mask whole images.
    """
    if params.cutout >= card.image_size:
        raise ParamsError(
            f"train.cutout is {params.cutout}, the images have {card.image_size}x{card.image_size} pixels; it must be "
            "less, such as half of that"
        )
    flip = dataset.horizontal_flip if params.horizontal_flip is None else params.horizontal_flip
    return Recipe(card.normalization, flip)


def build_network(card: ModelCard, weights: Path | None, params: TrainParams) -> Network:
    """Build the network with random weights from `train.seed`, or with the user's.

    Raises:
        ModelError: there is no such network, torch.fx cannot trace it, its state_dict does not hold all that it
            computes with, the weights do not fit it, or `train.epochs` is 0 and some of the weights are random.
    """
    torch.manual_seed(params.seed)
    model = build_model(card.name, card.stem, len(card.classes), card.input_shape)
    _check_before_training(model, card)
    if weights is None:
        if params.epochs == 0:
            raise ModelError(
                "train.epochs=0 keeps model.weights unchanged, and model.weights is null; set one or the other"
            )
        return Network(model, None)
    loaded = load_checkpoint(model, weights, len(card.classes))
    if params.epochs == 0 and loaded.replaces_head:
        raise ModelError(
            "model.weights has a head for another number of classes, which must be trained; set train.epochs to 1 "
            "or more"
        )
    note = f"model.weights: {weights.resolve()}: {'; '.join(loaded.changes)}" if loaded.changes else None
    return Network(model, note)


def _check_before_training(model: nn.Module, card: ModelCard) -> None:
    """Find what would only be refused when the trained network is written.

    Raises:
        ModelError: torch.fx cannot trace the network, or its state_dict lacks something that it computes with.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn here must not change the training
        canonicalize(model, card.input_shape)
        other = build_model(card.name, card.stem, len(card.classes), card.input_shape).eval()
        images = torch.randn(2, *card.input_shape)
        try:
            other.load_state_dict(model.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"model.name: {card.name} is another network each time that it is built ({reason}); let it depend on "
                "num_classes alone"
            ) from None
        require_complete_state(model, other, images)


def fingerprint(card: ModelCard, params: TrainParams, dataset: DatasetCard, weights: Path | None) -> dict[str, Any]:
    """Return, as JSON, all that determines the bits of the trained weights.

    Of the machine, that is the versions of torch and torchvision and all that torch chooses its kernels by.
    """
    return {
        "model": card.model_dump(mode="json"),
        "params": params.model_dump(mode="json"),
        "data": dataset.sha256,
        "weights": sha256_file(weights) if weights else None,
        "code": hash_packages(_PACKAGES),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def require_equal_inputs(ranks: Ranks, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what `fingerprint` returned, which must be equal on every rank except for the machines.

    Raises:
        LaunchError: a host has other params, data, weights or code than the first.
    """
    own = json.dumps({name: value for name, value in inputs.items() if name not in _OF_THE_MACHINE}, sort_keys=True)
    first, *others = map(json.loads, ranks.gather_bytes(own.encode()))
    for rank, other in enumerate(others, 1):
        if differing := [name for name in first if first[name] != other[name]]:
            raise LaunchError(
                f"rank {rank} differs from rank 0 in {', '.join(differing)}; every host needs the same "
                "params.yaml, data/dataset, inputs and packages"
            )
    return inputs
