"""The interval of a set's statistic holds what such sets have on average, where a bootstrap's never does."""

from collections.abc import Callable
from functools import cache
from math import nan

import numpy as np
import numpy.typing as npt
import pytest

from dreamlm.core.evaluation.jackknife import jackknife, student_quantile
from dreamlm.core.evaluation.self_bleu import SelfBleu
from dreamlm.core.evaluation.variety import NgramPool

Statistic = Callable[[npt.NDArray[np.int64]], float]
Make = Callable[[list[list[int]]], Statistic]

# Quantiles of Student's t in any statistics textbook.
TABLE = [(0.975, 4, 2.776), (0.975, 9, 2.262), (0.975, 31, 2.040), (0.95, 4, 2.132), (0.995, 15, 2.947)]


@pytest.mark.parametrize(("probability", "freedom", "quantile"), TABLE)
def test_students_quantiles_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, rel=0.005)


def test_the_interval_of_a_mean_is_students() -> None:
    share_N = np.random.default_rng(0).beta(60, 60, size=32)
    interval = jackknife(lambda chosen: float(share_N[chosen].mean()), np.arange(32), 32, 0.95, 0)
    half = student_quantile(0.975, 31) * share_N.std(ddof=1) / np.sqrt(32)
    assert interval is not None
    # On the scale of the logit, which is straight near one half.
    assert (interval.low, interval.high) == pytest.approx((share_N.mean() - half, share_N.mean() + half), abs=1e-4)


def test_groups_of_unequal_size_do_not_widen_the_interval_of_a_statistic_that_falls_with_size() -> None:
    def by_size_alone(chosen: npt.NDArray[np.int64]) -> float:
        return 1 / len(chosen)

    interval = jackknife(by_size_alone, np.arange(100), 32, 0.95, 0)
    assert interval is not None
    assert interval.high - interval.low < 0.002 * 0.01


def test_texts_of_one_unit_leave_together() -> None:
    left: list[set[int]] = []

    def remember(chosen: npt.NDArray[np.int64]) -> float:
        left.append(set(range(12)) - set(chosen.tolist()))
        return 0.5

    jackknife(remember, np.arange(12) % 6, 10, 0.95, 0)
    assert sorted(map(sorted, left[1:])) == [[unit, unit + 6] for unit in range(6)]


def test_too_few_units_or_a_value_that_cannot_vary_have_no_interval() -> None:
    assert jackknife(lambda chosen: 0.5, np.arange(4), 32, 0.95, 0) is None
    for value in (0.0, 1.0, nan):
        assert jackknife(lambda chosen, value=value: value, np.arange(9), 32, 0.95, 0) is None


def test_an_interval_stays_between_0_and_the_most() -> None:
    interval = jackknife(lambda chosen: 4.9 if 0 in chosen else 0.1, np.arange(6), 32, 0.95, 0, most=5.0)
    assert interval is not None
    assert 0 <= interval.low < 4.9 < interval.high <= 5.0


def distinct(length: int) -> Make:
    return lambda texts: NgramPool(texts, length).distinct


@cache
def sets_of_texts(sets: int) -> list[list[list[int]]]:
    """Sets of 64 texts; words have Zipf's frequencies, bent for each text by a subject of its own."""
    generator = np.random.default_rng(7)
    zipf = 1 / np.arange(1, 401)

    def one_text() -> list[int]:
        weights = zipf * generator.gamma(0.3, 1.0, 400)
        return generator.choice(400, size=25, p=weights / weights.sum()).tolist()

    return [[one_text() for _ in range(64)] for _ in range(sets)]


@pytest.mark.parametrize("make", [distinct(1), distinct(2), SelfBleu], ids=["distinct-1", "distinct-2", "self-BLEU"])
def test_the_interval_holds_what_such_sets_have_on_average_as_often_as_it_says(make: Make) -> None:
    unit_N = np.arange(64)
    statistics = [make(texts) for texts in sets_of_texts(100)]
    expected = np.mean([statistic(unit_N) for statistic in statistics])
    intervals = [jackknife(statistic, unit_N, 32, 0.95, 0) for statistic in statistics]
    hits = sum(interval is not None and interval.low <= expected <= interval.high for interval in intervals)
    assert hits >= 90  # 95 with a deviation of 2; the variance may be too large, so 100 is no wonder


def test_a_bootstrap_would_not_hold_it() -> None:
    generator = np.random.default_rng(1)
    expected = np.mean([NgramPool(texts, 2).distinct(np.arange(64)) for texts in sets_of_texts(100)])
    for texts in sets_of_texts(100)[:10]:
        resamples = [[texts[number] for number in generator.integers(64, size=64)] for _ in range(60)]
        assert np.quantile([NgramPool(one, 2).distinct(np.arange(64)) for one in resamples], 0.975) < expected
