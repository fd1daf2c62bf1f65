"""The schedules of masking: their closed forms, their ends, and the bound on which all of them agree."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from dreamlm.core.nn.noise import SCHEDULES, NoiseName, stratified_times

TIMES = (0.1, 0.25, 0.5, 0.9)


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


CLOSED_FORMS: dict[NoiseName, Callable[[float], float]] = {
    "linear": lambda t: t,
    "sqrt": math.sqrt,
    "cosine": lambda t: 1 - math.cos(math.pi * t / 2),
    "exponential": lambda t: (1 - math.exp(-3 * t)) / (1 - math.exp(-3)),
    "sigmoid": lambda t: (logistic(6 * t - 3) - logistic(-3)) / (logistic(3) - logistic(-3)),
}


def test_every_name_has_a_schedule_and_another_name_is_an_error() -> None:
    assert set(SCHEDULES) == set(get_args(NoiseName)) == set(CLOSED_FORMS)
    with pytest.raises(ValidationError):
        TypeAdapter(NoiseName).validate_python("quadratic")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_its_closed_form_and_goes_from_nothing_to_everything(name: NoiseName) -> None:
    schedule = SCHEDULES[name]
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    rate = schedule.rate(grid)
    assert rate[0] == 0
    assert rate[-1].item() == pytest.approx(1, abs=1e-12)
    assert bool((rate.diff() > 0).all())
    assert torch.allclose(schedule.time(rate), grid, atol=1e-7)
    for time in TIMES:
        found = schedule.rate(torch.tensor(time, dtype=torch.float64)).item()
        assert found == pytest.approx(CLOSED_FORMS[name](time), abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_over_all_times_each_number_of_masks_counts_alike(name: NoiseName, size: int) -> None:
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    size_U = torch.full((len(grid),), size)
    count_U = SCHEDULES[name].counts(grid, size_U)
    weight_U = SCHEDULES[name].weights(count_U, size_U)
    for masked in range(1, size + 1):
        mean = (weight_U * (count_U == masked)).mean().item()
        assert mean == pytest.approx(1 / masked, rel=2e-3), f"{masked} of {size}"


@pytest.mark.parametrize("name", SCHEDULES)
def test_in_large_blocks_a_weight_is_that_of_continuous_time(name: NoiseName) -> None:
    schedule = SCHEDULES[name]
    time_U = torch.tensor(TIMES, dtype=torch.float64, requires_grad=True)
    rate_U = schedule.rate(time_U)
    (slope_U,) = torch.autograd.grad(rate_U.sum(), time_U)
    size_U = torch.full((len(TIMES),), 100_000)
    with torch.no_grad():
        weight_U: Tensor = schedule.weights(schedule.counts(time_U, size_U), size_U)
    assert torch.allclose(weight_U.double(), slope_U / rate_U.detach(), rtol=1e-3)


@given(time=st.floats(0, 1), size=st.integers(1, 50))
def test_at_least_one_token_is_masked_and_at_most_all(time: float, size: int) -> None:
    for schedule in SCHEDULES.values():
        count = schedule.counts(torch.tensor([time]), torch.tensor([size]))
        assert 1 <= count.item() <= size


def test_stratified_times_have_one_in_each_part() -> None:
    torch.manual_seed(0)
    times = stratified_times(64, torch.device("cpu"))
    assert sorted((times * 64).floor().long().tolist()) == list(range(64))
    assert len({round(float(one % (1 / 64)), 6) for one in times}) == 1
    assert not torch.equal(times, times.sort().values)
