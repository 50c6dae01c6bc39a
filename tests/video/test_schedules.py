"""The learning rate is torch's own, as a function of the step's number."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from video.learning.schedules import Schedule, ScheduleName, depends_on_epochs, first_candidate


def schedule(name: ScheduleName, *, warmup_steps: int = 0, num_steps: int = 40) -> Schedule:
    return Schedule(
        name=name,
        peak=0.3,
        warmup_steps=warmup_steps,
        num_steps=num_steps,
        drop_steps=10,
        drop_factor=0.2,
    )


def rates(schedule: Schedule, count: int) -> list[float]:
    return [schedule.rate(step) for step in range(count)]


def torch_rates(kind: type[lr_scheduler.LRScheduler], count: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = kind(optimizer, **options)
    found = []
    for _ in range(count):
        found.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    return found


def test_cosine_is_that_of_torch() -> None:
    theirs = torch_rates(lr_scheduler.CosineAnnealingLR, 41, T_max=40)
    assert rates(schedule("cosine"), 41) == pytest.approx(theirs, abs=1e-12)


def test_cosine_ends_at_zero_and_stays_there() -> None:
    assert rates(schedule("cosine"), 45)[40:] == [0.0] * 5


def test_steps_are_those_of_torch() -> None:
    theirs = torch_rates(lr_scheduler.StepLR, 40, step_size=10, gamma=0.2)
    assert rates(schedule("step"), 40) == pytest.approx(theirs)


def test_constant_is_constant() -> None:
    assert rates(schedule("constant"), 50) == [0.3] * 50


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_warm_up_rises_in_equal_steps_to_the_peak(name: ScheduleName) -> None:
    found = rates(schedule(name, warmup_steps=6), 7)
    assert found == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.3])


def test_cosine_falls_over_the_steps_after_the_warm_up() -> None:
    found = rates(schedule("cosine", warmup_steps=20), 41)
    assert found[30] == pytest.approx(0.15)
    assert found[25] == pytest.approx(0.15 * (1 + math.cos(math.pi / 4)))
    assert found[40] == 0.0


def test_a_warm_up_longer_than_the_training_is_no_error() -> None:
    assert rates(schedule("cosine", warmup_steps=50), 41)[40] == pytest.approx(0.3 * 41 / 50)


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_a_schedule_says_whether_it_depends_on_the_number_of_epochs(name: ScheduleName) -> None:
    shorter, longer = (rates(schedule(name, num_steps=steps), 40) for steps in (40, 80))
    assert depends_on_epochs(name) == (shorter != longer)


@pytest.mark.parametrize(("epochs", "first"), [(1, 0), (2, 1), (7, 3), (8, 4)])
def test_of_a_schedule_that_ends_the_second_half_may_be_chosen(epochs: int, first: int) -> None:
    assert first_candidate("cosine", epochs) == first


@pytest.mark.parametrize("name", ["constant", "step"])
def test_of_another_schedule_every_epoch_may_be_chosen(name: ScheduleName) -> None:
    """A longer training goes on from a shorter one, which must not have chosen otherwise."""
    assert first_candidate(name, 8) == 0
