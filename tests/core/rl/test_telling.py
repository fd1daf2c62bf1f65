"""The interval of a held-out reward holds what it says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dreamlm.core.rl.collect import Summary
from dreamlm.core.rl.telling import reward_interval

FOUND = Summary(0.5, 0.2, {}, kl=0.0, length=1.0, ended=1.0, repetition=0.0, answers=20, tokens=20)


def test_the_half_width_is_students() -> None:
    low, high = reward_interval(FOUND) or (math.nan, math.nan)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert (high - low) / 2 == pytest.approx(2.093 * 0.2 / math.sqrt(20), rel=1e-3)  # 2.093: 97.5 %, 19 degrees


@pytest.mark.parametrize("change", [{"answers": 4}, {"answers": 1, "reward_deviation": 0.0}, {"reward_deviation": 0.0}])
def test_what_tells_too_little_has_no_interval(change: dict[str, float]) -> None:
    assert reward_interval(replace(FOUND, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("answers", [5, 10, 64])
def test_19_of_20_intervals_hold_the_mean(answers: int) -> None:
    draws = np.random.default_rng(0).normal(size=(4000, answers))
    found = [
        reward_interval(replace(FOUND, reward=row.mean(), reward_deviation=row.std(ddof=1), answers=answers))
        for row in draws
    ]
    held = [interval is not None and interval[0] <= 0 <= interval[1] for interval in found]
    assert 0.935 < sum(held) / len(held) < 0.965
