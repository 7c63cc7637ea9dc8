"""The learning rate of each step."""

import math

from ptqflow.train.params import TrainParams

# Of torch.optim.lr_scheduler.OneCycleLR.
_CYCLE_WARMUP = 0.3  # of all steps
_CYCLE_START = 1 / 25  # of the highest rate
_CYCLE_END = _CYCLE_START / 1e4


def learning_rate(step: int, steps_per_epoch: int, params: TrainParams) -> float:
    """Return the learning rate of a step, counted from 0 over all epochs.

    `constant` rises as torch's `LinearLR` from lr / (warm-up + 1) and stays; `one_cycle` is torch's `OneCycleLR`: half
    a cosine up from lr / 25, then one down to lr / 250000 (Smith and Topin, arXiv:1708.07120).
    """
    steps = steps_per_epoch * params.epochs
    if params.schedule == "constant":
        warmup = (params.warmup_epochs or 0) * steps_per_epoch
        return params.lr * min(1, (step + 1) / (warmup + 1))
    share = _CYCLE_WARMUP if params.warmup_epochs is None else params.warmup_epochs / params.epochs
    peak = share * steps - 1
    if step <= peak:
        return _half_cosine(_CYCLE_START, 1, step / peak if peak else 1) * params.lr
    return _half_cosine(1, _CYCLE_END, (step - peak) / max(steps - 1 - peak, 1)) * params.lr


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
