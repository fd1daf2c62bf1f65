"""Advantages against their definition, whitening and explained variance against numpy."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.rl.advantages import explained_variance, generalised_advantages, whitened

Floats = np.ndarray


def alone(values: Sequence[float]) -> list[float]:
    return list(values)


def by_definition(reward_N: Floats, value_N: Floats, discount: float, trace: float) -> list[float]:
    """Equation 16 of Schulman et al. 2016, term by term."""
    following_N = [*value_N[1:], 0.0]
    surprise_N = [r + discount * after - v for r, after, v in zip(reward_N, following_N, value_N, strict=True)]
    return [
        sum((discount * trace) ** (k - t) * surprise_N[k] for k in range(t, len(reward_N)))
        for t in range(len(reward_N))
    ]


numbers = st.floats(-5, 5)
answers = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
)


@given(answers, st.floats(0.1, 1), st.floats(0, 1))
def test_they_are_the_discounted_sum_of_surprises(
    answer: tuple[list[float], list[float]], discount: float, trace: float
) -> None:
    reward_N, value_N = (np.array(part) for part in answer)
    found = generalised_advantages(reward_N, value_N, discount, trace)
    np.testing.assert_allclose(found, by_definition(reward_N, value_N, discount, trace), rtol=1e-9, atol=1e-9)


@given(answers)
def test_with_trace_one_they_are_returns_less_values(answer: tuple[list[float], list[float]]) -> None:
    reward_N, value_N = (np.array(part) for part in answer)
    returns_N = np.cumsum(reward_N[::-1])[::-1]
    np.testing.assert_allclose(generalised_advantages(reward_N, value_N, 1.0, 1.0), returns_N - value_N, atol=1e-9)


def test_a_perfect_critic_leaves_nothing_to_gain() -> None:
    reward_N = np.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(generalised_advantages(reward_N, np.array([1.5, 1.0, 2.0]), 1.0, 0.95), 0, atol=1e-12)


def test_whitening_is_over_all_tokens_however_answers_are_shared() -> None:
    parts = [np.array([1.0, 2.0, 4.0]), np.array([8.0]), np.array([-3.0, 0.5])]
    together = np.concatenate(whitened(parts, alone))
    assert together.mean() == pytest.approx(0, abs=1e-12)
    assert together.std() == pytest.approx(1, abs=1e-6)

    # Two processes: each must come to what one would have, from sums over both.
    def process(mine: list[Floats], others: list[Floats]) -> Floats:
        other = np.concatenate(others)
        calls: list[list[float]] = []

        def total(values: Sequence[float]) -> list[float]:
            calls.append(list(values))
            if len(calls) == 1:
                return [values[0] + len(other), values[1] + other.sum()]
            mean = np.concatenate([*mine, *others]).mean()
            return [values[0] + ((other - mean) ** 2).sum()]

        return np.concatenate(whitened(mine, total))

    np.testing.assert_allclose(np.concatenate([process(parts[:1], parts[1:]), process(parts[1:], parts[:1])]), together)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    returns = [np.array([1.0, 2.0]), np.array([4.0])]
    assert explained_variance(returns, returns, alone) == pytest.approx(1)
    assert explained_variance(returns, [np.full(2, 3.0), np.full(1, 3.0)], alone) == pytest.approx(0)
    assert explained_variance(returns, [-returns[0], -returns[1]], alone) == pytest.approx(1 - 4)
    assert explained_variance([np.ones(3)], [np.zeros(3)], alone) == 0
