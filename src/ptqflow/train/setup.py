"""What a training starts from, settled from the params, the data set and the user's weights."""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptqflow.core.artifacts import sha256_file
from ptqflow.core.errors import LaunchError, ModelError, ParamsError
from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import Ranks
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.architecture import build_model, hash_code
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams
from ptqflow.train.params import TrainParams
from ptqflow.train.pretrained import load_checkpoint
from ptqflow.train.step import Recipe

_OF_THE_MACHINE = ("cpu", "threads", "gpu")


def describe_model(params: ModelParams, dataset: DatasetCard) -> ModelCard:
    """Settle what the params leave to the data set."""
    normalization = dataset.normalization
    if params.mean and params.std:
        normalization = Normalization(mean=params.mean, std=params.std)
    return ModelCard(
        name=params.name,
        stem=params.stem,
        classes=dataset.classes,
        image_size=dataset.image_size,
        normalization=normalization,
        code_sha256=hash_code(params.name),
    )


def settle_recipe(card: ModelCard, params: TrainParams, dataset: DatasetCard) -> Recipe:
    """Settle what `TrainParams` leaves to the data set and the model.

    Raises:
        ParamsError: cutout would hide whole images.
    """
    if params.cutout >= card.image_size:
        raise ParamsError(
            f"train.cutout is {params.cutout}, the images have {card.image_size}x{card.image_size} pixels; it must be "
            "less, such as half of that"
        )
    flip = dataset.horizontal_flip if params.horizontal_flip is None else params.horizontal_flip
    return Recipe(card.normalization, flip)


def build_network(card: ModelCard, weights: Path | None, params: TrainParams) -> nn.Module:
    """Build the network with random weights by `train.seed`, or with the user's.

    Raises:
        ModelError: there is no such network, the weights do not fit it, or there are no epochs and it has learned
            nothing.
    """
    torch.manual_seed(params.seed)
    model = build_model(card.name, card.stem, len(card.classes), card.image_size)
    head_is_new = weights is not None and load_checkpoint(model, weights, len(card.classes))
    if params.epochs == 0 and weights is None:
        raise ModelError(
            "train.epochs=0 takes model.weights as they are, and model.weights is null; set one or the other"
        )
    if params.epochs == 0 and head_is_new:
        raise ModelError(
            "model.weights has a head for another number of classes, which must be trained anew; set train.epochs to 1 "
            "or more"
        )
    return model


def fingerprint(card: ModelCard, params: TrainParams, dataset: DatasetCard, weights: Path | None) -> dict[str, Any]:
    """Return, as JSON, all that decides the bits in which a training ends.

    Of the code, the modules of ptqflow that are imported now; of the machine, torch and what its kernels are chosen by.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("ptqflow.")]
    files = sorted(Path(module.__file__) for module in modules if module.__file__)
    return {
        "model": card.model_dump(mode="json"),
        "params": params.model_dump(mode="json"),
        "data": dataset.sha256,
        "weights": sha256_file(weights) if weights else None,
        "code": hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def require_equal_inputs(ranks: Ranks, inputs: dict[str, Any]) -> None:
    """Compare what `fingerprint` returned on every rank, but for the machines.

    Raises:
        LaunchError: a host has other params, data, weights or code than the first.
    """
    own = json.dumps({name: value for name, value in inputs.items() if name not in _OF_THE_MACHINE}, sort_keys=True)
    first, *others = map(json.loads, ranks.gather_bytes(own.encode()))
    for rank, other in enumerate(others, 1):
        if differing := [name for name in first if first[name] != other[name]]:
            raise LaunchError(
                f"rank {rank} differs from rank 0 in {', '.join(differing)}; give every host the same params.yaml, "
                "data/dataset, inputs and packages"
            )
