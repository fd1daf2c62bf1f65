"""What each token of an answer was worth: penalties, and the pull towards the reference as a part of the reward."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import Recording, rollout

from dreamlm.core.rl import collect
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.collect import Collector, Opinions, Written
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.policy import AnswerBatch, Opinion
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


@dataclass
class Reader:
    """Reads answers in place of a policy."""

    read: Callable[..., tuple[Opinion, None]]

    def __call__(self, batch: AnswerBatch, entropies: bool) -> tuple[Opinion, None]:
        return self.read(batch, entropies)

    def eval(self) -> None:
        """It is always."""


class TwoInAStep(Recording):
    """A backend beside another process, whose answers are longer."""

    def lengths_in_step(self, lengths: Sequence[int]) -> Sequence[int]:
        return [length + 7 for length in lengths]

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize(("in_step", "columns"), [(True, [14, 11]), (False, [7, 4])])
def test_answers_are_read_at_the_lengths_of_the_pass_that_learns_from_them(
    monkeypatch: pytest.MonkeyPatch, in_step: bool, columns: list[int]
) -> None:
    """A pass of another length rounds differently, and the first probability ratio would not be 1."""
    answers = [rollout(length) for length in (2, 6, 3, 1)]
    seen: list[int] = []

    def read(batch: AnswerBatch, entropies: bool) -> tuple[Opinion, None]:
        seen.append(batch.tokens_BT.shape[1])
        given = torch.zeros(len(batch.chosen_N))
        return Opinion(given, given, given, given[:, None]), None

    monkeypatch.setattr(collect, "roll_out", lambda *given: answers)
    judge = SimpleNamespace(score=lambda given: Scores({}, (0.0,) * len(given)))
    reads, values = Reader(read), lambda hidden_ND: hidden_ND[:, 0]
    reading = Collector(PolicyConfig(), TwoInAStep(), reads, values, reads, None, judge)  # type: ignore[arg-type]
    written = reading.write([Prompt("p")] * 4, [0] * 4, [[0, 1], [3, 2]], in_step)
    assert seen == [length for length in columns for _ in ("policy", "reference")]
    assert [len(one.policy_N) for one in written.opinions] == [2, 6, 3, 1]


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
