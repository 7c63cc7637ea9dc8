"""The fewest modules that must stay FP32 for the loss of accuracy to stay within a budget."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule

from ptqflow.calib.statistics import Statistics
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import Quantized, quantize
from ptqflow.convert.sensitivity import measure_sensitivity, order_by_harm
from ptqflow.core.errors import ParamsError
from ptqflow.core.figures import DIGITS, TrialRow
from ptqflow.data.accuracy import predictions
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Split
from ptqflow.fx.fp32_modules import is_kept, refuse_fused_steps
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.logits import compute_logits

_PIXELS = 1 << 18  # of images of val at a time
_IMAGES = 2000  # of val at most, that the order of the modules is measured on; every trial counts all of val


@dataclass(frozen=True)
class Trial:
    """A conversion, and its result on val."""

    count: int
    """How many of the modules, in the order of their harm, stayed FP32."""
    kept: tuple[str, ...]
    """These modules, by the order of their harm; a block stands for all that is in it."""
    lost: int
    """Images that FP32 predicts rightly, less those that INT8 does."""
    images: int
    """Of val."""
    seconds: float

    @property
    def drop(self) -> float:
        """Loss of top-1 in points."""
        return 100 * self.lost / self.images

    def meets(self, max_drop: float) -> bool:
        """Return whether the loss is within a budget in points."""
        return 100 * self.lost <= max_drop * self.images + 1e-9


@dataclass(frozen=True)
class Budget:
    """What was tried, in order."""

    kept: tuple[str, ...]
    """What the budget takes."""
    trail: tuple[Trial, ...]

    def rows(self) -> list[TrialRow]:
        """Return the trials in their order, without their seconds, which no two runs share."""
        return [
            TrialRow(
                modules=trial.count,
                drop=round(trial.lost / trial.images, DIGITS),
                chosen=trial.kept == self.kept,
                kept=", ".join(trial.kept),
            )
            for trial in self.trail
        ]


def meet_budget(
    model: nn.Module,
    card: ModelCard,
    params: ConvertParams,
    statistics: Statistics,
    train: Split,
    val: Split,
    report: Callable[[Trial], None],
) -> Budget:
    """Find how many modules, in the order of their measured harm, must stay FP32 for `convert.max_drop` to be kept.

    Every trial is a real conversion on all of val; a block all of whose modules are kept is kept whole. It starts with
    nothing kept; if that loses too much, all modules; then it halves the numbers between one that fails and one that
    holds, so that there are 2 + log2(modules) trials at most and the choice is always one that was tried. It is the
    least number if one module more never costs accuracy.

    Args:
        model: FP32, in evaluation mode.
        card: of the model.
        params: the `convert` section, with `max_drop` set.
        statistics: what `calib` collected.
        train: the split that the calibration images are from.
        val: the split that accuracy is measured on.
        report: called with each trial when it ends.

    Raises:
        ParamsError: the budget cannot be met with all modules kept, or val has no labels.
    """
    assert params.max_drop is not None
    if val.labels is None:
        raise ParamsError(f"convert.max_drop is {params.max_drop:g} and the images have no labels; set it to null")
    fp32_right = _count_right(model, val, card, "fp32")
    trail: list[Trial] = []

    def attempt(count: int, kept: tuple[str, ...]) -> tuple[Trial, Quantized]:
        start = time.monotonic()
        quantized = quantize(model, card, params, statistics, train, kept)
        lost = fp32_right - _count_right(quantized.converted, val, card, f"{count} kept FP32")
        trail.append(Trial(count, kept, lost, len(val), time.monotonic() - start))
        report(trail[-1])
        return trail[-1], quantized

    chosen, first = attempt(0, ())
    if chosen.meets(params.max_drop):
        return Budget((), tuple(trail))
    found = measure_sensitivity(model, card, first.card, first.converted, val, _IMAGES)
    order = order_by_harm(found)
    fails, holds = 0, len(order)
    if order:
        chosen, _ = attempt(holds, whole_blocks(model, first.prepared, order, order))
    if not chosen.meets(params.max_drop):
        raise ParamsError(
            f"convert.max_drop={params.max_drop} cannot be met: with all {holds} modules kept FP32, INT8 still loses "
            f"{chosen.drop:.2f} points on the {len(val)} images of val; raise it"
        )
    while holds - fails > 1:
        middle = (fails + holds) // 2
        trial, _ = attempt(middle, whole_blocks(model, first.prepared, order[:middle], order))
        if trial.meets(params.max_drop):
            holds, chosen = middle, trial
        else:
            fails = middle
    return Budget(chosen.kept, tuple(trail))


def whole_blocks(
    model: nn.Module, prepared: GraphModule, kept: Sequence[str], measured: Collection[str]
) -> tuple[str, ...]:
    """Return the modules to keep, with a block in the place of those in it where all that are measured in it are kept.

    Else what a block does beside them, such as the addition of a residual block, would still be INT8.

    Args:
        model: the FP32 network.
        prepared: it with nothing kept but what the params say.
        kept: what is to stay FP32, in the order of the harm.
        measured: all that is quantized.
    """
    result = list(kept)
    for block, _ in model.named_modules():  # outer ones first
        inside = [name for name in measured if name.startswith(f"{block}.")]
        if not block or not inside or not set(inside) <= set(kept) or is_kept(block, result):
            continue
        candidate = [name for name in result if name not in inside]
        candidate.insert(result.index(next(name for name in result if name in inside)), block)
        with suppress(ParamsError):  # what is in the block is fused into a layer outside
            refuse_fused_steps(model, prepared, candidate)
            result = candidate
    return tuple(result)


def describe_trial(trial: Trial) -> str:
    """Return one line of the trail."""
    names = ", ".join(trial.kept[:4]) + (", …" if len(trial.kept) > 4 else "") or "-"
    return f"{trial.count:4} kept FP32  drop {trial.drop:6.2f} points  {trial.seconds:6.1f} s  {names}"


def _count_right(model: nn.Module, val: Split, card: ModelCard, label: str) -> int:
    together = images_together(card.preprocessing.size, _PIXELS)
    logits = compute_logits(model, val, card.normalization, together, label)
    return int((predictions(logits) == val.known_labels).sum())
