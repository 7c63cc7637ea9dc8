"""Train a classifier with SGD."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ptqflow.augmentation import random_crop, random_flip
from ptqflow.data.dataset import DatasetCard, Split
from ptqflow.errors import DataError, ModelError
from ptqflow.evaluation import Evaluation, compute_logits, evaluate
from ptqflow.models.architecture import hash_code
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams
from ptqflow.params import Params
from ptqflow.preprocessing import to_input

_VAL_BATCH = 256  # images at a time; the figures do not depend on it


class TrainParams(Params):
    """The recipe."""

    epochs: NonNegativeInt
    """0 takes `model.weights` as they are."""
    batch_size: Annotated[int, Field(ge=2)]
    """Images a step."""
    lr: PositiveFloat
    """Learning rate of SGD."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat
    """L2 penalty on all parameters."""
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    """Pixels of black around the image before the random crop; 0 crops nothing."""
    horizontal_flip: bool | None
    """Whether to mirror half of the images; None: what the data set allows."""
    seed: NonNegativeInt
    """Initial weights, order of the images, augmentation."""


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch."""

    epoch: int
    """Counted from 1; 0 is the network before any training."""
    train_loss: float | None
    """Mean cross-entropy in nats over the epoch, while the weights changed."""
    train_top1: float | None
    """Share of right predictions over the epoch."""
    val: Evaluation

    def __str__(self) -> str:
        train = "" if self.train_top1 is None else f"train {100 * self.train_top1:.2f} % "
        return f"epoch {self.epoch}: {train}val {100 * self.val.top1:.2f} % loss {self.val.loss:.4f}"

    def as_row(self) -> dict[str, float | int | None]:
        """Return the figures as a row of a table, rounded to 6 decimals."""
        train = {
            f"train_{name}": None if figure is None else round(figure, 6)
            for name, figure in (("loss", self.train_loss), ("top1", self.train_top1))
        }
        val = self.val.as_metrics()
        return {"epoch": self.epoch, **train, "val_loss": val["loss"], "val_top1": val["top1"]}


@dataclass(frozen=True)
class Recipe:
    """What the data set and the model settle beside the params."""

    mean: Sequence[float]
    std: Sequence[float]
    horizontal_flip: bool


def describe_model(params: ModelParams, dataset: DatasetCard) -> ModelCard:
    """Settle what the params leave to the data set."""
    mean, std = (params.mean, params.std) if params.mean and params.std else dataset.normalization
    return ModelCard(
        name=params.name,
        stem=params.stem,
        classes=dataset.classes,
        image_size=dataset.image_size,
        mean=mean,
        std=std,
        code_sha256=hash_code(params.name),
    )


def pick_device() -> torch.device:
    """Return CUDA when there is one, else the CPU, with kernels that repeat their results where they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    model: nn.Module,
    train: Split,
    val: Split,
    recipe: Recipe,
    params: TrainParams,
    device: torch.device,
) -> Iterator[Epoch]:
    """Train `model` in place, an epoch at a time, and yield the figures of each, with an evaluation on `val`.

    Without epochs the network stays as it is and is evaluated once, as epoch 0.

    Raises:
        DataError: one training image alone, from which batch normalization learns nothing.
        ModelError: the loss or an output is no longer finite.
    """

    def evaluate_val() -> Evaluation:
        return evaluate(compute_logits(model, val, recipe.mean, recipe.std, _VAL_BATCH, "val"), val.labels)

    if len(train) < 2:
        raise DataError(f"training needs two images or more, the train split has {len(train)}")
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    if params.epochs == 0:
        yield Epoch(0, None, None, evaluate_val())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay
    )
    generator = torch.Generator().manual_seed(params.seed)
    for epoch in range(1, params.epochs + 1):
        loss, top1 = _train_epoch(
            model, train, recipe, params, device, optimizer, generator, f"epoch {epoch}/{params.epochs}"
        )
        if not math.isfinite(loss):
            raise _divergence(epoch, f"the loss is {loss}", params)
        try:
            evaluation = evaluate_val()
        except DataError as error:
            raise _divergence(epoch, str(error), params) from None
        yield Epoch(epoch, loss, top1, evaluation)


def require_start(epochs: int, has_weights: bool, head_is_new: bool) -> None:
    """Refuse to go on with a network that has learned nothing.

    Raises:
        ModelError: there are no epochs, and no weights or a head without any.
    """
    if epochs == 0 and not has_weights:
        raise ModelError(
            "train.epochs=0 takes model.weights as they are, and model.weights is null; set one or the other"
        )
    if epochs == 0 and head_is_new:
        raise ModelError(
            "model.weights has a head for another number of classes, which must be trained anew; set train.epochs to 1 "
            "or more"
        )


def _train_epoch(
    model: nn.Module,
    train: Split,
    recipe: Recipe,
    params: TrainParams,
    device: torch.device,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    label: str,
) -> tuple[float, float]:
    model.train()
    seen, loss_sum, hits = 0, torch.zeros((), device=device), torch.zeros((), device=device)
    batches = list(_batches(len(train), params.batch_size, generator))
    for rows in tqdm(batches, desc=label, unit="batch", leave=False, disable=None):
        images = torch.from_numpy(train.images[rows]).to(device)
        labels = torch.from_numpy(train.labels[rows]).to(device)
        if params.crop_padding:
            images = random_crop(images, params.crop_padding, generator)
        if recipe.horizontal_flip:
            images = random_flip(images, generator)
        logits = model(to_input(images, recipe.mean, recipe.std).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(rows)
        loss_sum += loss.detach() * len(rows)
        hits += (logits.argmax(dim=1) == labels).sum()
    return loss_sum.item() / seen, hits.item() / seen


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Yield shuffled rows; a last batch of one image is left out, because batch normalization cannot train on it."""
    for rows in torch.randperm(count, generator=generator).split(size):
        if len(rows) > 1:
            yield rows.numpy()


def _divergence(epoch: int, sign: str, params: TrainParams) -> ModelError:
    return ModelError(f"training diverged in epoch {epoch}: {sign} at train.lr={params.lr}; lower train.lr")
