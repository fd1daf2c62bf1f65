"""That the formulas are used: what reaches the backend, what becomes experience, and what an iteration hands on.

The formulas themselves are tested beside them; here stand-ins record what they are given.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stand_ins import ANSWERS, CPU, JUDGED, LENGTHS, STATE, Iterations, Recording, config, experience, rollout

from dreamlm.core.rl.collect import Collected, Collector, Opinions, Written
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.rewards.mix import Scores
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.updates import Updater
from dreamlm.core.training.hooks import Hook

SCORES = (0.2, 0.9, -0.4, 0.5)


def updated(state: PolicyState, **settings: Any) -> tuple[Recording, list[list[list[list[int]]]]]:
    backend = Recording()
    updater = Updater(config(**settings), backend, Hook())  # type: ignore[arg-type]
    plan = updater.plan(state, ANSWERS)
    updater.update(state, experience(), plan)
    return backend, plan


def test_every_update_steps_at_the_rate_that_the_alarms_have_left() -> None:
    backend, _ = updated(replace(STATE, rate_factor=0.25))
    assert backend.factors == [0.25] * 4


@pytest.mark.parametrize(("applied", "pull"), [("loss", 0.7), ("reward", 0.0)])
def test_the_loss_pulls_by_the_coefficient_of_the_state_unless_the_reward_does(applied: str, pull: float) -> None:
    backend, _ = updated(STATE, kl={"applied": applied})
    handed = [micro.inputs(CPU)[2] for micros in backend.seen for micro in micros]
    assert handed == [pull] * 8


def test_an_update_sees_the_experience_of_its_own_answers_each_number_in_its_place() -> None:
    backend, plan = updated(STATE, micro_batch=2)
    everything = experience()
    groups = [group for epoch in plan for minibatch in epoch for group in minibatch]
    micros = [micro for step in backend.seen for micro in step]
    for epoch in plan:
        assert sorted(number for minibatch in epoch for group in minibatch for number in group) == [0, 1, 2, 3]
    for group, micro in zip(groups, micros, strict=True):
        _, columns, _ = micro.inputs(CPU)
        for name, column_N in vars(columns).items():
            wanted_N = np.concatenate([getattr(everything[number], name) for number in group])
            np.testing.assert_allclose(column_N.numpy(), wanted_N, rtol=1e-6, err_msg=name)


WHOLE = [np.linspace(-3.0, -0.5, length) for length in LENGTHS]
VALUES = [np.cos(np.arange(length) + length) / 2 for length in LENGTHS]
CUT_OFF = 2
"""Number of the answer that did not end."""


def collected(**settings: Any) -> Collected:
    rollouts = [rollout(length, ended=number != CUT_OFF) for number, length in enumerate(LENGTHS)]
    opinions = [Opinions(one_N, one_N, one_N - 0.1, value_N) for one_N, value_N in zip(WHOLE, VALUES, strict=True)]
    written = Written(rollouts, Scores(components={}, total=SCORES), opinions, 1.0)
    collector = Collector(config(**settings), Recording(), *([None] * 5))  # type: ignore[arg-type]
    return collector.collect(written, 0.7, RunningMoments())


def written_out(scores: Sequence[float], discount: float, trace: float) -> list[np.ndarray]:
    """The estimates of Schulman et al. 2016, equation 16, from scores that are given at the last token."""
    mean, deviation = np.mean(scores), np.std(scores)
    advantages = []
    for score, value_N in zip(scores, VALUES, strict=True):
        reward_N = np.zeros(len(value_N))
        reward_N[-1] = (score - mean) / deviation
        coming_N = np.append(value_N[1:], 0.0)
        surprise_N = reward_N + discount * coming_N - value_N
        advantages.append(
            np.array(
                [
                    sum((discount * trace) ** (k - t) * surprise_N[k] for k in range(t, len(value_N)))
                    for t in range(len(value_N))
                ]
            )
        )
    return advantages


def test_the_advantages_of_all_tokens_together_have_mean_0_and_deviation_1() -> None:
    found = collected().experience
    together = np.concatenate([one.advantage_N for one in found])
    assert together.mean() == pytest.approx(0.0, abs=1e-9)
    assert together.std() == pytest.approx(1.0, rel=1e-6)
    plain = np.concatenate([one.return_N - one.value_N for one in found])
    np.testing.assert_allclose(together, (plain - plain.mean()) / plain.std(), atol=1e-7)


@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (0.9, 1.0), (1.0, 0.5)])
def test_returns_are_estimated_with_the_discount_and_the_trace_of_the_preset(discount: float, trace: float) -> None:
    found = collected(discount=discount, trace=trace).experience
    for one, advantage_N, value_N in zip(found, written_out(SCORES, discount, trace), VALUES, strict=True):
        np.testing.assert_allclose(one.return_N, advantage_N + value_N, atol=1e-9)


def test_what_is_earned_is_the_score_after_its_penalties() -> None:
    found = collected(missing_end_penalty=0.5, length_target=3, length_penalty=0.25, discount=1.0, trace=1.0)
    shaped = list(SCORES)
    shaped[CUT_OFF] -= 0.5 + 0.25  # cut off, and one token longer than 3
    assert found.moments.mean == pytest.approx(np.mean(shaped))
    for one, score in zip(found.experience, shaped, strict=True):
        assert one.return_N[0] == pytest.approx((score - np.mean(shaped)) / np.std(shaped))


def test_scores_are_cut_to_the_limit_of_the_preset() -> None:
    found = collected(score_limit=0.5, discount=1.0, trace=1.0).experience
    normalised = (np.array(SCORES) - np.mean(SCORES)) / np.std(SCORES)
    np.testing.assert_allclose([one.return_N[0] for one in found], normalised.clip(-0.5, 0.5))


DIVERGENCES = (0.5, 0.2, 0.0)


def three_iterations(**settings: Any) -> tuple[Iterations, PolicyState]:
    """By a policy that is far from its reference, then nearer; and the state after them."""
    run = Iterations([{"kl": divergence} for divergence in DIVERGENCES], **settings)
    return run, run.run()


def test_each_iteration_asks_for_the_prompts_behind_those_before_it() -> None:
    run, after = three_iterations()
    assert run.prompts.asked == [(0, ANSWERS), (ANSWERS, ANSWERS), (2 * ANSWERS, ANSWERS)]
    assert after.prompt_cursor == 3 * ANSWERS
    later = Iterations([{}], state=replace(JUDGED, prompt_cursor=7, step=2))
    later.run()
    assert later.prompts.asked == [(7, ANSWERS)]


def test_the_coefficient_follows_the_divergence_of_each_iteration() -> None:
    run, after = three_iterations(kl={"initial": 0.1, "target": 0.25, "horizon": 8})
    share = ANSWERS / 8
    expected = [0.7]
    for divergence in DIVERGENCES:
        error = min(0.2, max(-0.2, divergence / 0.25 - 1))
        expected.append(expected[-1] * (1 + share * error))
    assert [*run.collector.coefficients, after.kl_coefficient] == pytest.approx(expected)
    assert len({round(one, 9) for one in expected[:-1]}) == 3
    pulls = [micro.pull for step in run.backend.seen for micro in step]
    assert pulls == pytest.approx([one for one in expected[:-1] for _ in range(8)])
    assert [report.kl_coefficient for report in run.reports.heard] == pytest.approx(expected[1:])


def test_the_moments_of_the_scores_are_those_of_all_iterations() -> None:
    run, after = three_iterations()
    assert [one.count for one in run.collector.moments] == [0, ANSWERS, 2 * ANSWERS]
    assert after.moments.count == 3 * ANSWERS


def test_no_answer_shares_its_random_numbers_with_another() -> None:
    seeds = [seed for some in three_iterations()[0].collector.seeds for seed in some]
    assert len(set(seeds)) == len(seeds) == 3 * ANSWERS + 1


def test_an_alarm_makes_the_next_updates_smaller_and_their_pull_stronger() -> None:
    alarms = {"patience": 1, "kl": 0.4, "backoffs": 9}
    run, after = three_iterations(alarms=alarms, kl={"adaptive": False})
    assert run.backend.factors == [1.0] * 4 + [0.5] * 8
    assert run.collector.coefficients == pytest.approx([0.7, 1.4, 1.4])
    assert math.isclose(after.rate_factor, 0.5)
