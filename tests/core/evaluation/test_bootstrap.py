import numpy as np
import pytest

from dreamlm.core.evaluation import bootstrap
from dreamlm.core.evaluation.bootstrap import bootstrap_ratio


def test_the_interval_of_a_mean_is_the_normal_one_when_windows_are_many() -> None:
    sums = np.random.default_rng(0).normal(3.0, 1.0, size=2000) * 64
    interval = bootstrap_ratio(sums, np.full(2000, 64.0), 0.95, 4000, 1)
    assert interval is not None
    error = sums.std() / 64 / np.sqrt(2000)
    assert interval.low == pytest.approx(sums.mean() / 64 - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(sums.mean() / 64 + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        counts = generator.integers(20, 65, size=60).astype(float)
        sums = counts * generator.gamma(9.0, 1 / 3, size=60)
        interval = bootstrap_ratio(sums, counts, 0.9, 400, trial)
        assert interval is not None
        hits += interval.low <= 3.0 <= interval.high
    # 270 of 300 with a deviation of 5; the percentile interval is known to be a little narrow.
    assert 252 <= hits <= 285


def test_longer_windows_weigh_more() -> None:
    interval = bootstrap_ratio(np.array([100.0, 2.0] * 50), np.array([100.0, 1.0] * 50), 0.95, 500, 0)
    assert interval is not None
    assert interval.high < 1.05


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    sums, counts = np.random.default_rng(0).random(50), np.ones(50)
    intervals = [bootstrap_ratio(sums, counts, confidence, 1000, 0) for confidence in (0.5, 0.9, 0.99)]
    widths = [interval.high - interval.low for interval in intervals if interval is not None]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_bounding_the_memory_does_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, counts = np.random.default_rng(0).random(50), np.ones(50)
    whole = bootstrap_ratio(sums, counts, 0.95, 333, 9)
    monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", 120)
    assert bootstrap_ratio(sums, counts, 0.95, 333, 9) == whole


@pytest.mark.parametrize("windows", [0, 1])
def test_fewer_than_two_windows_have_no_interval(windows: int) -> None:
    assert bootstrap_ratio(np.ones(windows), np.ones(windows), 0.95, 100, 0) is None
