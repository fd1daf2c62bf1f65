"""Learning rates: their closed forms, and what holds for every schedule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.training.schedules import Cosine, WarmupStableDecay

SCHEDULES = st.sampled_from([Cosine.Config(), WarmupStableDecay.Config(), Cosine.Config(warmup_steps=0, floor=0.0)])


def test_cosine_is_its_closed_form() -> None:
    schedule = Cosine.Config(warmup_steps=10, floor=0.1).build(steps=110)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(9) == 1.0
    assert schedule.factor(10) == 1.0
    assert schedule.factor(60) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert schedule.factor(110) == pytest.approx(0.1)


def test_warmup_stable_decay_is_its_closed_form() -> None:
    schedule = WarmupStableDecay.Config(warmup_steps=10, decay_fraction=0.2, floor=0.05).build(steps=100)
    assert [schedule.factor(step) for step in (10, 50, 79, 80)] == [1.0] * 4
    assert schedule.factor(90) == pytest.approx(0.05 + 0.95 * 0.5)
    assert schedule.factor(100) == pytest.approx(0.05)


@given(SCHEDULES, st.integers(1, 5000), st.integers(0, 20_000))
def test_every_factor_is_usable_and_the_floor_is_flat(config: Cosine.Config, steps: int, step: int) -> None:
    schedule = config.build(steps)
    assert 0.0 <= schedule.factor(step) <= 1.0
    assert schedule.factor(0) > 0.0
    assert schedule.factor(steps + step) == schedule.factor(steps)


@given(SCHEDULES, st.integers(20, 500))
def test_the_rate_rises_once_and_falls_once(config: Cosine.Config, steps: int) -> None:
    factors = [config.build(steps).factor(step) for step in range(steps + 5)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert top <= steps // 10
