"""Timing several networks in turns, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ptqflow.benchmark.worker_process import Cell

# The threads of a runtime spin on for a while after a run, on the cores that the next process needs.
PAUSE_SECONDS = 0.005
MS_DIGITS = 4
RATIO_DIGITS = 3


@dataclass(frozen=True)
class Timing:
    """What one network took."""

    load_s: float
    """Seconds from the first byte of its file until it could take an input; the runtime was imported before."""
    first_ms: float
    """Its first run, in which some runtimes choose kernels and pack weights."""
    memory_mb: float
    """The most memory its process has held, the runtime's libraries included."""
    form: str
    """The way it ran, where a runtime has several."""
    rounds: tuple[tuple[float, ...], ...]
    """Milliseconds of every run, by round."""

    def as_metrics(self, batch: int) -> dict[str, Any]:
        """Return the figures; latency is that of a batch, median and percentile are over all runs."""
        runs = [run for of_round in self.rounds for run in of_round]
        return {
            "median_ms": round(median(runs), MS_DIGITS),
            "p95_ms": round(float(np.percentile(runs, 95)), MS_DIGITS),
            "images_per_s": round(1000 * batch / median(runs), 1),
            "first_ms": round(self.first_ms, MS_DIGITS),
            "load_s": round(self.load_s, 4),
            "memory_mb": round(self.memory_mb, 1),
            "form": self.form,
        }


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as another a network is."""

    median: float
    low: float
    high: float

    def as_metrics(self) -> dict[str, float]:
        """Return the median over the rounds, and their 5th and 95th percentile."""
        figures = {"speedup": self.median, "speedup_low": self.low, "speedup_high": self.high}
        return {name: round(figure, RATIO_DIGITS) for name, figure in figures.items()}


def time_in_turns(cells: Mapping[str, Cell], rounds: int, seconds: float) -> dict[str, Timing]:
    """Load each network, then time all in turns: forwards, then backwards, and so on.

    Args:
        cells: processes that have just been started.
        rounds: turns of each.
        seconds: of timed runs of each in all; a round is one run at least, so a slow network takes longer.
    """
    for cell in cells.values():
        cell.wait_until_imported()
    loaded = {name: cell.load() for name, cell in cells.items()}
    timed: dict[str, list[tuple[float, ...]]] = {name: [] for name in cells}
    for turn in range(rounds):
        for name in list(cells)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(PAUSE_SECONDS)
            timed[name].append(tuple(cells[name].round(1000 * seconds / rounds)))
    return {name: Timing(**loaded[name], rounds=tuple(timed[name])) for name in cells}


def speedup(timing: Timing, reference: Timing) -> Speedup:
    """Return how many times as fast as the reference a network is: the ratios of the medians of paired rounds."""
    ratios = _ratios(reference.rounds, timing.rounds)
    low, high = np.percentile(ratios, (5, 95))
    return Speedup(median(ratios), float(low), float(high))


def _ratios(slower: Sequence[Sequence[float]], faster: Sequence[Sequence[float]]) -> list[float]:
    return [median(ours) / median(theirs) for ours, theirs in zip(slower, faster, strict=True)]
