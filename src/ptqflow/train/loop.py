"""Train a classifier with SGD."""

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn

from ptqflow.core.errors import DataError, LaunchError, ModelError
from ptqflow.core.figures import DIGITS, EpochRow
from ptqflow.core.progress import Bar, progress_bar
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.core.stage import is_rank
from ptqflow.data.accuracy import Evaluation, evaluate
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Split
from ptqflow.models.logits import compute_logits
from ptqflow.train.augmentation import draw_epoch
from ptqflow.train.batches import Batches
from ptqflow.train.checkpoints import Checkpoints
from ptqflow.train.params import MIN_PER_RANK, TrainParams
from ptqflow.train.schedule import learning_rate
from ptqflow.train.step import Recipe, Trainer

_VAL_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 20}  # of images of val at a time; the figures do not depend on it
_LOOK_EVERY = 50  # steps between checks of the losses, each of which waits for the GPU


@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch."""

    epoch: int
    """Counted from 1; 0 is the network before any training."""
    train_loss: float | None
    """Mean cross-entropy in nats over the epoch, while the weights changed."""
    train_top1: float | None
    """Share of correct predictions over the epoch."""
    val: Evaluation | None
    """None where val has no labels."""
    lr: float | None = None
    """Learning rate of the last step."""
    images_per_second: float | None = field(default=None, compare=False)
    """Of the training alone."""

    def __str__(self) -> str:
        train = "" if self.train_top1 is None else f"train {100 * self.train_top1:.2f} % "
        speed = "" if self.images_per_second is None else f", {self.images_per_second:.0f} images/s"
        val = (
            f"val {100 * self.val.top1:.2f} % loss {self.val.loss:.4f}" if self.val else "the weights given, unchanged"
        )
        return f"epoch {self.epoch}: {train}{val}{speed}"

    def as_row(self) -> EpochRow:
        """Return the reproducible figures, rounded to 6 decimals."""
        val = self.val.as_metrics() if self.val else {}
        return EpochRow(
            epoch=self.epoch,
            train_loss=None if self.train_loss is None else round(self.train_loss, DIGITS),
            train_top1=None if self.train_top1 is None else round(self.train_top1, DIGITS),
            val_loss=val.get("loss"),
            val_top1=val.get("top1"),
        )


def pick_device() -> torch.device:
    """Return this rank's GPU where there is one, else the CPU, and select deterministic kernels where they exist.

    Raises:
        LaunchError: this host has GPUs, but fewer than ranks.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads any
    torch.backends.cudnn.benchmark = False
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = int(os.environ["LOCAL_RANK"]) if is_rank() else 0
    if rank >= torch.cuda.device_count():
        raise LaunchError(f"train.devices may be at most {torch.cuda.device_count()} on this host: it has no more GPUs")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def fit(
    model: nn.Module,
    train: Split,
    val: Split,
    recipe: Recipe,
    params: TrainParams,
    device: torch.device,
    ranks: Ranks = ALONE,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place, an epoch at a time, and yield the figures of each, with an evaluation on `val`.

    After the last epoch `model` holds the weights to keep, those of `selected`. With `params.epochs` of 0 it is
    unchanged and evaluated once, as epoch 0, if val has labels.

    Args:
        model: every rank starts from the first rank's weights.
        train: the images to train on.
        val: the images to evaluate on.
        recipe: the settings that the params leave to the data set.
        params: the section `train`.
        device: of this rank.
        ranks: the processes that share each batch and the images of `val`.
        checkpoints: the newest one is resumed from, and new ones are saved here. Epochs that were trained before are
            yielded again.

    Raises:
        DataError: there are fewer than `MIN_PER_RANK` training images a rank.
        ModelError: the loss or an output is no longer finite.
    """
    if len(train) < (fewest := MIN_PER_RANK * ranks.size):
        raise DataError(f"training needs {fewest} images or more, the train split has {len(train)}")
    if params.epochs == 0:
        yield Epoch(0, None, None, None if val.labels is None else _evaluate(model.to(device), val, recipe, ranks))
        return
    batches = Batches(train, params.batch_size, ranks, device)
    run = _Run(Trainer(model, recipe, params, ranks, device), batches, val, recipe, params, ranks)
    epochs = run.restore(checkpoints)
    yield from epochs
    steps = len(batches)
    with progress_bar(params.epochs * steps, "train", "batch", done=len(epochs) * steps) as bar:
        for number in range(len(epochs) + 1, params.epochs + 1):
            epochs.append(run.epoch(number, bar))
            if selected(epochs, params) is epochs[-1]:
                run.trainer.keep()
            if checkpoints and ranks.rank == 0 and checkpoints.are_due(number):
                checkpoints.save(number, run.trainer.state(), {"epochs": [asdict(epoch) for epoch in epochs]})
            yield epochs[-1]
    run.trainer.finish()


def selected(epochs: Sequence[Epoch], params: TrainParams) -> Epoch:
    """Return the epoch whose weights are kept: by `select`, the last, or the best.

    That is the one with the highest top-1 on val, of equal ones the one with the lowest loss, then the first."""
    if params.select == "last":
        return epochs[-1]
    return max(epochs, key=lambda epoch: (epoch.val.top1, -epoch.val.loss) if epoch.val else (0, 0))


@dataclass(frozen=True)
class _Run:
    """A training in progress."""

    trainer: Trainer
    batches: Batches
    val: Split
    recipe: Recipe
    params: TrainParams
    ranks: Ranks

    def restore(self, checkpoints: Checkpoints | None) -> list[Epoch]:
        """Return the epochs trained so far, with the newest checkpoint or the first rank's weights on every rank."""
        checkpoint = checkpoints.newest() if checkpoints and self.ranks.rank == 0 else None
        for name, tensor in self.trainer.state().items():
            if checkpoint:
                tensor.copy_(checkpoint.tensors[name])
            self.ranks.broadcast(tensor)
        record = json.dumps(checkpoint.record["epochs"] if checkpoint else []).encode()
        epochs = json.loads(self.ranks.gather_bytes(record)[0])
        return [Epoch(**{**epoch, "val": Evaluation(**epoch["val"])}) for epoch in epochs]

    def epoch(self, number: int, bar: Bar) -> Epoch:
        """Train an epoch, counted from 1, and evaluate the network after it."""
        bar.set_description(f"epoch {number}/{self.params.epochs}")
        start = time.perf_counter()
        loss, top1 = self._train(number, bar)
        seconds = time.perf_counter() - start
        self.trainer.share_statistics()
        try:
            evaluation = _evaluate(self.trainer.result, self.val, self.recipe, self.ranks)
        except DataError as error:
            raise self._divergence(number, len(self.batches), str(error)) from None
        rate = self._rate(number, len(self.batches))
        return Epoch(number, loss, top1, evaluation, rate, sum(self.batches.totals()) / seconds)

    def _train(self, number: int, bar: Bar) -> tuple[float, float]:
        """Return the mean loss in nats and the share of correct predictions."""
        params = self.params
        _seed(params.seed, number, self.ranks.rank)
        draws = draw_epoch(self.batches.images, params.crop_padding, self.recipe.horizontal_flip, params.seed, number)
        self.trainer.model.train()
        figures = torch.zeros(len(self.batches), 2, device=self.trainer.device)
        for step, batch in enumerate(self.batches.epoch(draws), 1):
            rate = self._rate(number, step)
            figures[step - 1].copy_(self.trainer.step(batch, (number - 1) * len(self.batches) + step, rate))
            bar.update()
            if step % _LOOK_EVERY == 0 or step == len(self.batches):
                losses, hits = self.ranks.add(figures.double()).cpu().unbind(dim=1)
                if infinite := (~losses.isfinite()).nonzero().flatten().tolist():
                    raise self._divergence(number, infinite[0] + 1, f"the loss is {losses[infinite[0]]:g}")
        totals = torch.tensor(self.batches.totals(), dtype=torch.float64)
        return float(losses @ totals / totals.sum()), float(hits.sum() / totals.sum())

    def _rate(self, number: int, step: int) -> float:
        return learning_rate((number - 1) * len(self.batches) + step - 1, len(self.batches), self.params)

    def _divergence(self, number: int, step: int, sign: str) -> ModelError:
        return ModelError(
            f"training diverged in epoch {number}, step {step}: {sign} at a learning rate of "
            f"{self._rate(number, step):g}; lower train.lr"
        )


def _evaluate(model: nn.Module, val: Split, recipe: Recipe, ranks: Ranks) -> Evaluation:
    device = next(model.parameters()).device
    together = images_together(val.size, _VAL_PIXELS[device.type])
    logits = compute_logits(model, val, recipe.normalization, together, "val", ranks)
    return evaluate(logits, val.known_labels)


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Seed all generators, so that random layers such as dropout depend on the epoch and the rank alone."""
    value = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)  # the user's network may draw from it
    random.seed(value)
