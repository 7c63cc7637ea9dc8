"""Turns and figures, against figures computed by hand and by numpy."""

from typing import Any, cast

import numpy as np
import pytest

from ptqflow.benchmark.timing import Timing, speedup, time_in_turns
from ptqflow.benchmark.worker_process import Cell


def timing(*rounds: tuple[float, ...]) -> Timing:
    return Timing(load_s=0.5, first_ms=9.0, memory_mb=100.0, form="plain", rounds=rounds)


class Recording:
    """Stands for a live process and writes down what it is asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def wait_until_imported(self) -> None:
        self._log.append(f"import {self._name}")

    def load(self) -> dict[str, Any]:
        self._log.append(f"load {self._name}")
        return {"load_s": 1.0, "first_ms": 2.0, "memory_mb": 3.0, "form": "plain"}

    def round(self, milliseconds: float) -> list[float]:
        self._log.append(f"{self._name} {milliseconds:g}")
        return [1.0]


def test_networks_take_turns_in_alternating_order_after_all_are_loaded() -> None:
    log: list[str] = []
    cells = {name: cast(Cell, Recording(name, log)) for name in ("a", "b")}
    timings = time_in_turns(cells, rounds=3, seconds=0.3)
    assert log == [
        *("import a", "import b", "load a", "load b"),
        *("a 100", "b 100", "b 100", "a 100", "a 100", "b 100"),
    ]
    assert timings["a"].rounds == ((1.0,), (1.0,), (1.0,))


def test_speedup_is_the_median_of_the_ratios_of_paired_rounds_with_their_percentiles() -> None:
    rng = np.random.default_rng(0)
    fp32, int8 = rng.uniform(5, 6, (20, 7)), rng.uniform(1, 2, (20, 7))
    gain = speedup(timing(*map(tuple, int8)), timing(*map(tuple, fp32)))
    ratios = np.median(fp32, axis=1) / np.median(int8, axis=1)
    assert gain.median == pytest.approx(np.median(ratios))
    assert (gain.low, gain.high) == pytest.approx(tuple(np.percentile(ratios, [5, 95])))


def test_what_slows_a_whole_round_down_leaves_the_speedup_unchanged() -> None:
    gain = speedup(timing((2.0,), (200.0,), (2.0,)), timing((6.0,), (600.0,), (6.0,)))
    assert (gain.low, gain.median, gain.high) == pytest.approx((3.0, 3.0, 3.0))


def test_figures_are_over_all_runs() -> None:
    metrics = timing((1.0, 2.0), (3.0, 10.0), (4.0,)).as_metrics(batch=6)
    assert metrics == {
        "median_ms": 3.0,
        "p95_ms": pytest.approx(np.percentile([1, 2, 3, 10, 4], 95)),
        "images_per_s": 2000.0,
        "first_ms": 9.0,
        "load_s": 0.5,
        "memory_mb": 100.0,
        "form": "plain",
    }
