import pytest
import torch
from recipes import params

from ptqflow.train.schedule import learning_rate

STEPS_PER_EPOCH = 7


def rates(**changes: float | str | None) -> list[float]:
    recipe = params(**changes)
    return [learning_rate(step, STEPS_PER_EPOCH, recipe) for step in range(recipe.epochs * STEPS_PER_EPOCH)]


def torch_rates(make: "type[torch.optim.lr_scheduler.LRScheduler]", steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
    schedule, found = make(optimizer, **options), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a_constant_rate_without_warm_up_is_constant() -> None:
    assert rates(lr=0.01, epochs=3) == [0.01] * 21


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_warm_up_of_a_constant_rate_is_torchs_linear_one(epochs: int) -> None:
    steps = STEPS_PER_EPOCH * epochs
    expected = torch_rates(
        torch.optim.lr_scheduler.LinearLR, steps, start_factor=1 / (STEPS_PER_EPOCH + 1), total_iters=STEPS_PER_EPOCH
    )
    assert rates(lr=0.4, epochs=epochs, warmup_epochs=1.0) == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "warmup"), [(10, None), (10, 1.0), (3, 0.5), (5, 0.0)])
def test_one_cycle_is_torchs(epochs: int, warmup: float | None) -> None:
    steps = STEPS_PER_EPOCH * epochs
    share = 0.3 if warmup is None else warmup / epochs
    expected = torch_rates(
        torch.optim.lr_scheduler.OneCycleLR,
        steps,
        max_lr=0.4,
        total_steps=steps,
        pct_start=share,
        cycle_momentum=False,
    )
    assert rates(schedule="one_cycle", lr=0.4, epochs=epochs, warmup_epochs=warmup) == pytest.approx(expected)


def test_a_cycle_that_is_all_warm_up_ends_at_its_peak() -> None:
    found = rates(schedule="one_cycle", lr=0.4, epochs=2, warmup_epochs=2.0)
    assert found == sorted(found)
    assert found[-1] == 0.4


@pytest.mark.parametrize("warmup", [None, 0.0, 1.0])
def test_a_cycle_of_a_single_step_has_a_rate(warmup: float | None) -> None:
    recipe = params(schedule="one_cycle", lr=0.4, epochs=1, warmup_epochs=warmup)
    assert 0 < learning_rate(0, 1, recipe) <= 0.4
