"""Accuracy with its interval, and calibration, of what a reward model says of held-out pairs."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dreamlm.core.errors import DataError, LossNotFinite
from dreamlm.core.evaluation.preference import (
    PreferenceReport,
    calibration_bins,
    calibration_error,
    preference_report,
    wilson,
)


def report_on(margins: list[float], confidence: float = 0.9, looks: int = 1) -> PreferenceReport:
    scores = np.stack([np.array(margins), np.zeros(len(margins))], axis=1)
    first = np.arange(len(margins)) % 2 == 0
    return preference_report(scores, np.full(len(margins), confidence), first, np.ones((len(margins), 2), int), looks)


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.8, 0.95, 0.975]))
def test_the_interval_holds_every_share_that_its_own_spread_explains(wins: int, trials: int, confidence: float) -> None:
    """Wilson's interval is where |p - share| = z * sqrt(p (1 - p) / n), solved for p."""
    wins = min(wins, trials)
    z = {0.8: 1.2815515655446004, 0.95: 1.959963984540054, 0.975: 2.241402727604947}[confidence]
    interval = wilson(wins, trials, confidence)
    assert 0 <= interval.low <= wins / trials + 1e-12
    assert wins / trials - 1e-12 <= interval.high <= 1
    for end in (interval.low, interval.high):
        assert abs(end - wins / trials) == pytest.approx(z * math.sqrt(max(0, end * (1 - end)) / trials), abs=1e-7)


def test_a_known_interval() -> None:
    """8 of 10: Newcombe 1998 and every table give 0.4902 to 0.9433."""
    interval = wilson(8, 10)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.4902, 0.9433)


def test_equal_scores_are_half_right() -> None:
    report = report_on([1.0, -1.0, 0.0, 2.0])
    assert report.accuracy == 2.5 / 4
    assert report.mean_margin == 0.5


def test_sixty_of_a_hundred_are_above_chance_only_for_who_looked_once() -> None:
    margins = [1.0] * 60 + [-1.0] * 40
    assert report_on(margins).above_chance
    assert not report_on(margins, looks=3).above_chance
    assert report_on(margins, looks=3).accuracy_interval.low < report_on(margins).accuracy_interval.low


def test_the_loss_is_the_mean_of_the_pairs() -> None:
    naive = [-math.log(0.9 / (1 + math.exp(-margin)) + 0.05) for margin in (1.0, -2.0, 0.5)]
    assert report_on([1.0, -2.0, 0.5]).loss == pytest.approx(sum(naive) / 3)


@settings(max_examples=50)
@given(arrays.arrays(np.float64, 40, elements=st.floats(0, 1)), arrays.arrays(np.bool_, 40))
def test_the_calibration_error_is_the_naive_one(predicted: np.ndarray, happened: np.ndarray) -> None:
    groups: dict[int, list[tuple[float, bool]]] = {}
    for probability, outcome in zip(predicted, happened, strict=True):
        groups.setdefault(min(9, int(probability * 10)), []).append((probability, outcome))
    naive = sum(
        len(group) / 40 * abs(sum(p for p, _ in group) / len(group) - sum(o for _, o in group) / len(group))
        for group in groups.values()
    )
    bins = calibration_bins(predicted, happened)
    assert calibration_error(bins) == pytest.approx(naive)
    assert [one.pairs for one in bins] == [len(groups.get(place, [])) for place in range(10)]


def test_who_is_always_sure_of_the_first_is_not_calibrated() -> None:
    """All answers shown in one order: the model would seem right by that alone."""
    dice = np.random.default_rng(0)
    scores = np.zeros((400, 2))
    scores[:, 0] = 4.0 * dice.choice([-1, 1], 400)
    report = preference_report(scores, np.full(400, 0.999), dice.random(400) < 0.5, np.ones((400, 2), int))
    assert report.accuracy == pytest.approx(0.5, abs=0.06)
    assert report.calibration_error > 0.4


def test_a_model_that_knows_its_probabilities_is_calibrated() -> None:
    dice = np.random.default_rng(1)
    margins = dice.normal(0, 2, 20_000)
    chosen = dice.random(20_000) < 0.8 / (1 + np.exp(-margins)) + 0.1
    scores = np.stack([np.where(chosen, margins, -margins), np.zeros(20_000)], axis=1)
    report = preference_report(scores, np.full(20_000, 0.8), dice.random(20_000) < 0.5, np.ones((20_000, 2), int))
    assert report.calibration_error < 0.02


def test_the_longer_answer_is_reported_as_a_judge_of_its_own() -> None:
    lengths = np.array([[9, 3], [4, 4], [2, 8], [5, 1]])
    report = preference_report(np.ones((4, 2)), np.full(4, 0.9), np.ones(4, bool), lengths)
    assert (report.accuracy, report.length_accuracy) == (0.5, 2.5 / 4)


def test_a_report_survives_json() -> None:
    report = report_on([1.0, -1.0, 0.0])
    assert PreferenceReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_nothing_is_said_of_no_pair_or_of_scores_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match="no held-out pair"):
        report_on([])
    with pytest.raises(LossNotFinite):
        report_on([1.0, math.nan])
