"""Runs of a network in a timing process, against figures computed by hand."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ptqflow.benchmark.timed_runtimes import Loaded, Run
from ptqflow.benchmark.worker import fastest_form, peak_memory, time_round, warm_up


class Counter:
    """A run that takes no time and counts itself."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> object:
        self.runs += 1
        return None


@pytest.mark.parametrize(("estimate", "counted", "uncounted"), [(2.0, 20, 1), (30.0, 1, 0), (100.0, 1, 0)])
def test_a_round_is_what_fits_in_it_and_one_run_at_least(estimate: float, counted: int, uncounted: int) -> None:
    run = Counter()
    assert len(time_round(run, 40.0, estimate)) == counted
    assert run.runs == counted + uncounted


def test_a_short_run_is_warmed_up_for_a_while_and_a_long_one_thrice() -> None:
    short = Counter()
    warm_up(short)
    assert short.runs > 3
    durations = []

    def long() -> None:
        started = time.perf_counter()
        time.sleep(0.05)
        durations.append(1000 * (time.perf_counter() - started))

    assert warm_up(long) >= 50
    assert len(durations) == 3


def test_of_several_forms_the_fastest_is_timed() -> None:
    def form(name: str, seconds: float) -> Run:
        def run() -> str:
            time.sleep(seconds)
            return name

        return run

    slow, fast = form("slow", 0.05), form("fast", 0.0)
    loaded = Loaded(form("plain", 0.03), dict, {"slow": lambda: slow, "fast": lambda: fast})
    name, run, _ = fastest_form(loaded, 30.0)
    assert (name, run()) == ("fast", "fast")
    assert fastest_form(Loaded(fast, dict, {"slow": lambda: slow}), 0.0)[0] == "plain"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_form_that_does_not_run_is_left_out() -> None:
    images = torch.zeros(1, 3, 31, 31)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2)).eval()  # of 29 pixels, which oneDNN refuses
    frozen = torch.jit.freeze(torch.jit.trace(network, images))
    optimized = torch.jit.optimize_for_inference(frozen)
    with pytest.raises(RuntimeError):
        optimized(images)
    loaded = Loaded(lambda: network(images), dict, {"optimized": lambda: lambda: optimized(images)})
    assert fastest_form(loaded, 1e9)[0] == "plain"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_peak_of_memory_stays_after_it_was_freed() -> None:
    before = peak_memory()
    np.ones(before + 50_000_000, np.uint8)
    assert peak_memory() >= before + 50_000_000
