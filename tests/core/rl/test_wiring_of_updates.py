"""That the formulas are used: what reaches the backend, what becomes experience, and what an iteration hands on.

The formulas themselves are tested beside them; here stand-ins record what they are given.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamlm.core.objectives.ppo import RATIO_ERROR
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.collect import Collected, Collector, Opinions, Summary, Written
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.experience import Experience, ExperienceBatch
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.rewards.mix import Scores
from dreamlm.core.rl.rollout import Rollout
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.trainer import PolicyTrainer
from dreamlm.core.rl.updates import Updater
from dreamlm.core.training.backend.backend import Measured, Tensors, Update
from dreamlm.core.training.hooks import Hook, IterationReport

CPU = torch.device("cpu")
ANSWERS = 4
SMALL = {"answers": ANSWERS, "minibatch": 2, "micro_batch": 1, "epochs": 2, "optimizer": {"learning_rate": 1e-3}}
STATE = PolicyState(seed=0, precision="fp32", prompts="", reference="", kl_coefficient=0.7, world_size=1)
JUDGED = replace(STATE, judged_step=0)
LENGTHS = (3, 1, 4, 2)
SCORES = (0.2, 0.9, -0.4, 0.5)


def config(**settings: Any) -> PolicyConfig:
    return PolicyConfig.model_validate({**SMALL, **settings})


@dataclass
class Recording:
    """A backend of one process that computes nothing, and keeps what it is given."""

    seen: list[Sequence[ExperienceBatch]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    rank: int = 0
    world_size: int = 1
    precision: str = "fp32"
    device: torch.device = CPU
    model: Any = field(default_factory=lambda: SimpleNamespace(parameters=list, vocab_size=9))

    def forward_backward(self, micro_batches: Sequence[ExperienceBatch]) -> Measured:
        self.seen.append(micro_batches)
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        return Measured(1.0, dict.fromkeys(names, 0.0), 10, {RATIO_ERROR: [0.0]})

    def update(self, factor: float) -> Update:
        self.factors.append(factor)
        return Update(1.0, 1e-3 * factor, applied=True)

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self) -> Tensors:
        return Tensors({}, {})

    @contextmanager
    def whole(self) -> Iterator[None]:
        yield


def rollout(length: int, ended: bool = True) -> Rollout:
    answer = Answer(Prompt("p"), (0, 5), tuple(range(1, length + 1)), "", ended)
    return Rollout(answer, np.zeros(length, dtype=np.float32), 0, None)


def experience() -> list[Experience]:
    """No two numbers are alike."""
    numbers = np.random.default_rng(0)
    return [Experience(rollout(n), *(numbers.standard_normal(n) for _ in range(5))) for n in LENGTHS]


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


@dataclass
class Answering:
    """A collector whose policy moves away from its reference, and which keeps what it is given."""

    divergences: Sequence[float]
    coefficients: list[float] = field(default_factory=list)
    moments: list[RunningMoments] = field(default_factory=list)
    seeds: list[tuple[int, ...]] = field(default_factory=list)

    def write(self, prompts: Sequence[Prompt], seeds: Sequence[int], groups: Sequence[Sequence[int]]) -> Written:
        assert sorted({number for group in groups for number in group}) == list(range(len(prompts)))
        self.seeds.append(tuple(seeds))
        one_N = np.zeros(2)
        opinions = [Opinions(one_N, one_N, one_N, one_N)] * len(prompts)
        return Written([rollout(2)] * len(prompts), Scores({}, (0.5,) * len(prompts)), opinions, 1.0)

    def collect(self, written: Written, coefficient: float, moments: RunningMoments) -> Collected:
        divergence = self.divergences[len(self.moments)]
        self.coefficients.append(coefficient)
        self.moments.append(moments)
        after = replace(moments, count=moments.count + ANSWERS, mean=moments.mean + 1.0)
        parts: Mapping[str, float] = {}
        found = Summary(0.5, 0.1, parts, divergence, 2.5, 1.0, 0.0, ANSWERS, sum(LENGTHS))
        return Collected(experience(), after, found, 0.1, 0.0, 1.0)


@dataclass
class Drawing:
    """Prompts that keep which of them were asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    held_out: Sequence[Prompt] = (Prompt("held out"),)

    def draw(self, cursor: int, count: int) -> list[Prompt]:
        self.asked.append((cursor, count))
        return [Prompt(str(number)) for number in range(cursor, cursor + count)]


class Forgetting:
    def save(self, state: Any, tensors: Tensors) -> Path:
        return Path()

    def roll_back(self) -> int:
        return -1


class Reports(Hook):
    def __init__(self) -> None:
        self.heard: list[IterationReport] = []

    def on_iteration(self, report: IterationReport) -> None:
        self.heard.append(report)


@dataclass
class Iterations:
    """Three iterations by stand-ins."""

    settings: Mapping[str, Any]
    divergences: Sequence[float] = (0.5, 0.2, 0.0)
    state: PolicyState = JUDGED
    prompts: Drawing = field(default_factory=Drawing)
    reports: Reports = field(default_factory=Reports)

    def __post_init__(self) -> None:
        given = {"iterations": 3, "eval_iterations": 9, **self.settings}
        self.config = config(**given)
        self.collector = Answering(self.divergences)
        self.backend = Recording()
        parts: Any = (self.backend, self.collector, self.prompts, Forgetting(), self.reports)
        self.after = PolicyTrainer(self.config, *parts).run(self.state)


def test_each_iteration_asks_for_the_prompts_behind_those_before_it() -> None:
    run = Iterations({})
    assert run.prompts.asked == [(0, ANSWERS), (ANSWERS, ANSWERS), (2 * ANSWERS, ANSWERS)]
    assert run.after.prompt_cursor == 3 * ANSWERS
    later = Iterations({}, state=replace(JUDGED, prompt_cursor=7, step=2))
    assert later.prompts.asked == [(7, ANSWERS)]


def test_the_coefficient_follows_the_divergence_of_each_iteration() -> None:
    run = Iterations({"kl": {"initial": 0.1, "target": 0.25, "horizon": 8}})
    share = ANSWERS / 8
    expected = [0.7]
    for divergence in run.divergences:
        error = min(0.2, max(-0.2, divergence / 0.25 - 1))
        expected.append(expected[-1] * (1 + share * error))
    assert [*run.collector.coefficients, run.after.kl_coefficient] == pytest.approx(expected)
    assert len({round(one, 9) for one in expected[:-1]}) == 3
    pulls = [micro.pull for step in run.backend.seen for micro in step]
    assert pulls == pytest.approx([one for one in expected[:-1] for _ in range(8)])
    assert [report.kl_coefficient for report in run.reports.heard] == pytest.approx(expected[1:])


def test_the_moments_of_the_scores_are_those_of_all_iterations() -> None:
    run = Iterations({})
    assert [one.count for one in run.collector.moments] == [0, ANSWERS, 2 * ANSWERS]
    assert run.after.moments.count == 3 * ANSWERS


def test_no_answer_shares_its_random_numbers_with_another() -> None:
    seeds = [seed for some in Iterations({}).collector.seeds for seed in some]
    assert len(set(seeds)) == len(seeds) == 3 * ANSWERS + 1


def test_an_alarm_makes_the_next_updates_smaller_and_their_pull_stronger() -> None:
    alarms = {"patience": 1, "kl": 0.4, "backoffs": 9}
    run = Iterations({"alarms": alarms, "kl": {"adaptive": False}})
    assert run.backend.factors == [1.0] * 4 + [0.5] * 8
    assert run.collector.coefficients == pytest.approx([0.7, 1.4, 1.4])
    assert math.isclose(run.after.rate_factor, 0.5)
