"""Moments, the KL controller, and the alarms."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.rl.alarms import AlarmLimits, Figures, Watch
from dreamlm.core.rl.controllers import KlControl
from dreamlm.core.rl.moments import RunningMoments


def alone(values: Sequence[float]) -> list[float]:
    return list(values)


@given(st.lists(st.lists(st.floats(-100, 100), max_size=8), min_size=1, max_size=6))
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    moments = RunningMoments()
    for part in parts:
        moments = moments.including(part, alone)
    everything = [value for part in parts for value in part]
    assert moments.count == len(everything)
    if everything:
        assert moments.mean == pytest.approx(np.mean(everything), abs=1e-9)
        spread = float(np.std(everything))
        assert moments.deviation == pytest.approx(spread if spread > 1e-8 else 1.0, rel=1e-6, abs=1e-7)


def test_scores_are_normalised_and_cut() -> None:
    moments = RunningMoments().including([1.0, 3.0], alone)
    assert moments.normalised(4.0, 5.0) == pytest.approx(2.0)
    assert moments.normalised(1e9, 5.0) == 5.0
    assert moments.normalised(-1e9, 5.0) == -5.0
    assert RunningMoments().including([2.0, 2.0], alone).normalised(2.5, 5.0) == pytest.approx(0.5)


def test_the_coefficient_follows_the_divergence_slowly_and_within_bounds() -> None:
    control = KlControl(initial=0.1, target=0.05, horizon=100)
    assert control.following(0.1, 0.05, 64) == pytest.approx(0.1)
    assert control.following(0.1, 5.0, 50) == pytest.approx(0.1 * 1.1)
    assert control.following(0.3, 0.0, 50) == pytest.approx(0.3 * 0.9)
    assert control.following(0.1, 0.0, 50) == 0.1
    assert control.following(0.1, 5.0, 10_000) == pytest.approx(0.1 * 1.2)
    assert control.following(0.1, 0.055, 100) == pytest.approx(0.1 * 1.1)
    assert KlControl(adaptive=False).following(0.3, 5.0, 64) == 0.3


ANSWERS = 64
HEALTHY = Figures(entropy=3.0, kl=0.05, length=40.0, ended=0.6, repetition=0.1, explained_variance=0.4, skipped=0.0)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"entropy": 0.2}, "entropy is 0.200"),
        ({"entropy": 6.1}, "the policy says anything"),
        ({"kl": 1.5}, "1.50 nats per token from the reference"),
        ({"length": 3.0}, "answers have 3.0 tokens"),
        ({"repetition": 0.8}, "80% of an answer's 3-grams repeat"),
        ({"explained_variance": -2.0}, "the critic is worse than none"),
        ({"ended": 0.05}, "5% of the answers end"),
    ],
)
def test_each_sign_raises_its_alarm_once_it_has_lasted(change: dict[str, float], word: str) -> None:
    limits = AlarmLimits(patience=3)
    watch, alarms = Watch().after(HEALTHY, limits, ANSWERS)
    assert alarms == []
    for _ in range(2):
        watch, alarms = watch.after(replace(HEALTHY, **change), limits, ANSWERS)
        assert alarms == []
    watch, alarms = watch.after(replace(HEALTHY, **change), limits, ANSWERS)
    assert len(alarms) == 1
    assert word in alarms[0]
    assert (watch.backoffs, dict(watch.streaks)) == (1, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kl": math.nan}, "not finite: divergence"),
        ({"skipped": 0.25}, "not finite: the loss or gradient of 25% of the updates"),
        ({"entropy": math.nan, "skipped": 1.0}, "not finite: the loss or gradient of 100% of the updates, entropy"),
    ],
)
def test_what_is_not_finite_needs_no_patience_and_is_no_measure(change: dict[str, float], words: str) -> None:
    watch, alarms = Watch().after(replace(HEALTHY, **change), AlarmLimits(patience=3), ANSWERS)
    assert alarms == [words]
    assert watch.first is None
    assert watch.after(HEALTHY, AlarmLimits(), ANSWERS)[0].first == HEALTHY


def test_a_sign_that_passes_is_forgotten() -> None:
    watch = Watch()
    for number in range(12):
        figures = replace(HEALTHY, kl=1.5) if number % 3 else HEALTHY
        watch, alarms = watch.after(figures, AlarmLimits(patience=3), ANSWERS)
        assert alarms == []
    assert watch.backoffs == 0


def test_a_first_iteration_that_repeats_is_the_measure_of_later_ones() -> None:
    watch, _ = Watch().after(replace(HEALTHY, repetition=0.7), AlarmLimits(patience=1), ANSWERS)
    assert watch.after(replace(HEALTHY, repetition=0.69), AlarmLimits(patience=1), ANSWERS)[1] == []
    assert watch.after(replace(HEALTHY, repetition=0.71), AlarmLimits(patience=1), ANSWERS)[1] != []


def test_few_answers_that_end_at_first_and_none_later_are_chance() -> None:
    limits = AlarmLimits(patience=1)
    watch, _ = Watch().after(replace(HEALTHY, ended=2 / 64), limits, 64)
    none = replace(HEALTHY, ended=0.0)
    assert watch.after(none, limits, 64)[1] == []
    assert len(watch.after(none, limits, 2048)[1]) == 1
