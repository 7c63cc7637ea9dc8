"""The fewest modules that must stay FP32 for the loss of accuracy to stay within a budget."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ptqflow.data.dataset import Split
from ptqflow.errors import ParamsError
from ptqflow.evaluation import DIGITS, compute_logits, predictions
from ptqflow.models.fp32 import ModelCard
from ptqflow.quantization.choices import ConvertParams
from ptqflow.quantization.quantize import Quantized, quantize
from ptqflow.quantization.sensitivity import measure_sensitivity, order_by_harm
from ptqflow.quantization.statistics import Statistics

_BATCH_SIZE = 256
_IMAGES = 2000  # of val at most, that the order of the modules is measured on; every trial counts all of val


@dataclass(frozen=True)
class Trial:
    """A conversion, and what it gave on val."""

    kept: tuple[str, ...]
    """Modules that stayed FP32 besides those of the params, in the order of their harm."""
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
        """Tell whether the loss is within a budget in points."""
        return 100 * self.lost <= max_drop * self.images + 1e-9


@dataclass(frozen=True)
class Budget:
    """What was tried, in order."""

    kept: tuple[str, ...]
    """What the budget takes."""
    trail: tuple[Trial, ...]

    def as_metrics(self) -> dict[str, Any]:
        """Return the choice and the trail, with losses as fractions; no seconds, which are never the same."""
        trail = {
            f"{len(trial.kept)} kept": {"drop": round(trial.lost / trial.images, DIGITS), "kept": ", ".join(trial.kept)}
            for trial in self.trail
        }
        return {"kept": ", ".join(self.kept), "trail": trail}


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

    Every trial is a real conversion on all of val. It starts with nothing kept; if that loses too much, all modules;
    then it halves the numbers between one that fails and one that holds, so that there are 2 + log2(modules) trials at
    most and the choice is always one that was tried. It is the least number if one module more never costs accuracy.

    Args:
        model: FP32, in evaluation mode.
        card: of the model.
        params: the `convert` section, with `max_drop` set.
        statistics: what `calib` collected.
        train: the split that the calibration images are from.
        val: the split that accuracy is measured on.
        report: called with each trial when it ends.

    Raises:
        ParamsError: the budget cannot be met with all modules kept.
    """
    assert params.max_drop is not None
    fp32_right = _count_right(model, val, card, "fp32")
    trail: list[Trial] = []

    def attempt(kept: tuple[str, ...]) -> Quantized:
        start = time.monotonic()
        quantized = quantize(model, card, params, statistics, train, kept)
        lost = fp32_right - _count_right(quantized.converted, val, card, f"{len(kept)} kept")
        trail.append(Trial(kept, lost, len(val), time.monotonic() - start))
        report(trail[-1])
        return quantized

    first = attempt(())
    if trail[-1].meets(params.max_drop):
        return Budget((), tuple(trail))
    sensitivities = measure_sensitivity(model, card, first.scheme, statistics, params, first.converted, val, _IMAGES)
    order = tuple(order_by_harm(sensitivities))
    if order:
        attempt(order)
    if not trail[-1].meets(params.max_drop):
        raise ParamsError(
            f"convert.max_drop={params.max_drop} cannot be met: with all {len(order)} modules kept FP32, INT8 still "
            f"loses {trail[-1].drop:.2f} points on the {len(val)} images of val; raise it"
        )
    fails, holds = 0, len(order)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        attempt(order[:middle])
        fails, holds = (fails, middle) if trail[-1].meets(params.max_drop) else (middle, holds)
    return Budget(order[:holds], tuple(trail))


def describe_trial(trial: Trial) -> str:
    """Return one line of the trail."""
    names = ", ".join(trial.kept[:4]) + (", …" if len(trial.kept) > 4 else "") or "-"
    return f"{len(trial.kept):4} kept FP32  drop {trial.drop:6.2f} points  {trial.seconds:6.1f} s  {names}"


def _count_right(model: nn.Module, val: Split, card: ModelCard, label: str) -> int:
    logits = compute_logits(model, val, card.mean, card.std, _BATCH_SIZE, label)
    return int((predictions(logits) == val.labels).sum())
