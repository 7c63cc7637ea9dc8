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
from ptqflow.core.preprocessing import in_pixels
from ptqflow.core.ranks import Ranks
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.fp32 import ModelCard, build_from_card
from ptqflow.models.params import TIMM
from ptqflow.models.pretrained import load_checkpoint
from ptqflow.train.params import TrainParams
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

    network: Network
    recipe: Recipe


def prepare(card: ModelCard, params: TrainParams, dataset: DatasetCard, weights: Path | None) -> Start:
    """Return network and recipe for the card that `dry_run` wrote.

    Raises:
        ArtifactError: see `build_network`.
        ModelError: see `build_network`.
        ParamsError: see `resolve_recipe`, or there are no labels to train with.
    """
    if params.epochs and not dataset.labelled:
        raise ParamsError(
            f"train.epochs is {params.epochs}, and data.name={dataset.name} has no labels to train with; set it to 0, "
            "and model.weights to the trained weights"
        )
    return Start(build_network(card, weights, params), resolve_recipe(card, params, dataset))


def resolve_recipe(card: ModelCard, params: TrainParams, dataset: DatasetCard) -> Recipe:
    """Return the settings that `TrainParams` leaves to the data set and the model.

    Raises:
        ParamsError: cutout would mask whole images.
    """
    size = card.preprocessing.size
    if params.cutout >= min(size):
        raise ParamsError(
            f"train.cutout is {params.cutout}, the images have {in_pixels(size)} pixels; it must be "
            "less, such as half of that"
        )
    flip = dataset.horizontal_flip if params.horizontal_flip is None else params.horizontal_flip
    return Recipe(card.normalization, flip)


def build_network(card: ModelCard, weights: Path | None, params: TrainParams) -> Network:
    """Build the network with random weights from `train.seed`, or with the user's.

    Raises:
        ArtifactError: the user's module has changed since `dry_run` ran.
        ModelError: the weights do not fit the network, or `train.epochs` is 0 and some of the weights are random.
    """
    torch.manual_seed(params.seed)
    model = build_from_card(card)
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


def fingerprint(card: ModelCard, params: TrainParams, dataset: DatasetCard, weights: Path | None) -> dict[str, Any]:
    """Return, as JSON, all that determines the bits of the trained weights.

    Of the machine, that is the versions of torch and of where the network comes from, and all that torch chooses its
    kernels by.
    """
    return {
        "model": card.model_dump(mode="json"),
        "params": params.model_dump(mode="json"),
        "data": dataset.sha256,
        "weights": sha256_file(weights) if weights else None,
        "code": hash_packages(_PACKAGES),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm") if card.name.startswith(TIMM) else None,
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
