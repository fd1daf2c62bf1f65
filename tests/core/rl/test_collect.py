"""What each token of an answer was worth: penalties, and the pull towards the reference as a part of the reward."""

from typing import Any

import numpy as np
import pytest
from stand_ins import Recording

from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.collect import Collector, Opinions, Written
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.rewards.mix import Scores
from dreamlm.core.rl.rollout import Rollout


def collector(**settings: Any) -> Collector:
    return Collector(PolicyConfig.model_validate(settings), Recording(), *([None] * 5))  # type: ignore[arg-type]


def answer(length: int, ended: bool) -> Answer:
    return Answer(Prompt("p"), (0,), tuple(range(length)), "", ended)


def test_answers_pay_for_length_and_for_a_missing_end() -> None:
    shaped = collector(length_target=3, length_penalty=0.25, missing_end_penalty=0.5)._shaped
    cases = ((3, True), (3, False), (5, True), (5, False))
    assert [shaped(1.0, answer(*case)) for case in cases] == [1.0, 0.5, 0.5, 0.0]
    assert collector()._shaped(1.0, answer(50, False)) == 1.0


WHOLE = [np.array([-1.0, -2.0]), np.array([-0.5, -0.25])]
REFERENCE = [np.array([-1.5, -1.0]), np.array([-0.5, -1.25])]


@pytest.mark.parametrize("applied", ["reward", "loss"])
def test_a_pull_in_the_reward_is_paid_at_every_token(applied: str) -> None:
    rollouts = [Rollout(answer(2, True), whole_N.astype(np.float32), 0, None) for whole_N in WHOLE]
    opinions = [
        Opinions(whole_N, whole_N, reference_N, np.zeros(2))
        for whole_N, reference_N in zip(WHOLE, REFERENCE, strict=True)
    ]
    written = Written(rollouts, Scores(total=(1.0, 3.0), components={}), opinions, 1.0)
    collecting = collector(kl={"applied": applied}, trace=1.0, discount=1.0)
    found = collecting.collect(written, 3.0, RunningMoments()).experience
    for one, score, whole_N, reference_N in zip(found, (-1.0, 1.0), WHOLE, REFERENCE, strict=True):
        pull_N = 3.0 * (whole_N - reference_N) if applied == "reward" else np.zeros(2)
        reward_N = np.array([0.0, score]) - pull_N
        scale = 4.0 if applied == "reward" else 1.0
        np.testing.assert_allclose(one.return_N, np.array([reward_N.sum(), reward_N[1]]) / scale)
