"""The KL controller in a loop with a policy that gives way to the pull: the divergence comes to the target."""

import math
import random

import pytest

from dreamlm.core.rl.controllers import KlControl

TARGET = 0.1
CONTROL = KlControl(initial=0.1, largest=100.0, target=TARGET, horizon=64)
ITERATIONS = 300


class Policy:
    """Under a pull it would end `eagerness / coefficient ** power` nats per token away, and goes there bit by bit."""

    def __init__(self, eagerness: float, pace: float, power: float) -> None:
        self.eagerness, self._pace, self._power = eagerness, pace, power
        self.divergence = 0.0
        self._dice = random.Random(0)

    def pulled(self, coefficient: float) -> float:
        """Its divergence after an iteration, as some answers show it: a fifth up or down."""
        self.divergence += self._pace * (self.eagerness / coefficient**self._power - self.divergence)
        return self.divergence * math.exp(self._dice.gauss(0.0, 0.2))


def steered(policy: Policy, iterations: int, coefficient: float, answers: int = 64) -> tuple[list[float], list[float]]:
    """True divergences and coefficients, iteration by iteration."""
    divergences, coefficients = [], []
    for _ in range(iterations):
        coefficient = CONTROL.following(coefficient, policy.pulled(coefficient), answers)
        divergences.append(policy.divergence)
        coefficients.append(coefficient)
    return divergences, coefficients


@pytest.mark.parametrize("answers", [16, 64, 512])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("pace", [1.0, 0.3, 0.1])
def test_the_divergence_settles_near_the_target_and_again_after_the_policy_has_changed(
    pace: float, power: float, answers: int
) -> None:
    policy = Policy(0.2, pace, power)
    coefficient = CONTROL.initial
    for eagerness in (0.2, 2.0):
        policy.eagerness = eagerness
        divergences, coefficients = steered(policy, ITERATIONS, coefficient, answers)
        settled, coefficient = divergences[ITERATIONS // 2 :], coefficients[-1]
        assert sum(settled) / len(settled) == pytest.approx(TARGET, rel=0.1)
        assert all(TARGET / 2.5 < one < TARGET * 2.5 for one in settled)


def test_a_policy_that_stays_near_keeps_the_least_pull_and_one_that_does_not_give_way_gets_the_largest() -> None:
    near, obstinate = Policy(0.5 * TARGET * CONTROL.initial, 1.0, 1.0), Policy(0.5, 1.0, 0.0)
    assert set(steered(near, 50, CONTROL.initial)[1]) == {CONTROL.initial}
    coefficients = steered(obstinate, 50, CONTROL.initial)[1]
    assert coefficients == sorted(coefficients)
    assert coefficients[0] == pytest.approx(1.2 * CONTROL.initial)
    assert coefficients[-1] == CONTROL.largest


def test_a_divergence_that_is_no_number_moves_nothing() -> None:
    assert CONTROL.following(0.3, math.nan, 64) == 0.3
