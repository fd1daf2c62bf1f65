"""What a policy's trainer is put together from, without a model: parts that record what they are given.

What iterations measure is written down beforehand, as a course of figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dreamlm.core.objectives.ppo import RATIO_ERROR
from dreamlm.core.rl.agreement import Disagreement
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.collect import Collected, Opinions, Summary, Written
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.experience import Experience, ExperienceBatch
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.rewards.mix import Scores
from dreamlm.core.rl.rollout import Rollout
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.trainer import PolicyTrainer
from dreamlm.core.training.backend.backend import Measured, Tensors, Update
from dreamlm.core.training.hooks import Hook, IterationReport, RunEnd

CPU = torch.device("cpu")
ANSWERS, UPDATES = 4, 4
"""Of an iteration."""
SMALL = {"answers": ANSWERS, "minibatch": 2, "micro_batch": 1, "epochs": 2, "optimizer": {"learning_rate": 1e-3}}
STATE = PolicyState(seed=0, precision="fp32", prompts="", reference="", kl_coefficient=0.7, world_size=1)
JUDGED = replace(STATE, judged_step=0)
LENGTHS = (3, 1, 4, 2)
HEALTHY: Mapping[str, float] = {
    "kl": 0.05, "length": 40.0, "ended": 0.6, "repetition": 0.1, "explained_variance": 0.4,
    "entropy": 3.0, "nll": 1.0, "answers": ANSWERS,
}  # fmt: skip
"""What an iteration measures unless its course says otherwise."""

Course = Sequence[Mapping[str, float]]


def config(**settings: Any) -> PolicyConfig:
    return PolicyConfig.model_validate({**SMALL, **settings})


def rollout(length: int, ended: bool = True) -> Rollout:
    answer = Answer(Prompt("p"), (0, 5), tuple(range(1, length + 1)), "", ended)
    return Rollout(answer, np.zeros(length, dtype=np.float32), 0, None)


def experience() -> list[Experience]:
    """No two numbers are alike."""
    numbers = np.random.default_rng(0)
    return [Experience(rollout(n), *(numbers.standard_normal(n) for _ in range(5))) for n in LENGTHS]


@dataclass
class Recording:
    """A backend of one process that computes nothing, and keeps what it is given."""

    course: Course = ({},)
    seen: list[Sequence[ExperienceBatch]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    rank: int = 0
    world_size: int = 1
    precision: str = "fp32"
    device: torch.device = CPU
    model: Any = field(default_factory=lambda: SimpleNamespace(parameters=list, vocab_size=9))

    def forward_backward(self, micro_batches: Sequence[ExperienceBatch]) -> Measured:
        found = {**HEALTHY, **self.course[len(self.seen) // UPDATES]}
        self.seen.append(micro_batches)
        names = ("policy_loss", "value_loss", "approx_kl", "clip_fraction")
        objectives = {**dict.fromkeys(names, 0.0), "entropy": found["entropy"]}
        return Measured(found["nll"], objectives, 10, {RATIO_ERROR: [0.0]})

    def update(self, factor: float) -> Update:
        self.factors.append(factor)
        return Update(1.0, 1e-3 * factor, applied=True)

    def discard(self) -> None:
        """There is nothing to forget."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def any(self, flag: bool) -> bool:
        return flag

    def first(self, text: str) -> str:
        return text

    def gather(self) -> Tensors:
        return Tensors({}, {})

    @contextmanager
    def whole(self) -> Iterator[None]:
        yield


@dataclass
class Answering:
    """A collector whose answers come to what the course says, and which keeps what it is given."""

    course: Course
    coefficients: list[float] = field(default_factory=list)
    moments: list[RunningMoments] = field(default_factory=list)
    seeds: list[tuple[int, ...]] = field(default_factory=list)
    disagreement: Disagreement = field(default_factory=lambda: Disagreement(10, 0, 0.0))

    def write(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], groups: Sequence[Sequence[int]], in_step: bool
    ) -> Written:
        assert sorted({number for group in groups for number in group}) == list(range(len(prompts)))
        self.seeds.append(tuple(seeds))
        one_N = np.zeros(2)
        opinions = [Opinions(one_N, one_N, one_N, one_N)] * len(prompts)
        return Written([rollout(2)] * len(prompts), Scores({}, (0.5,) * len(prompts)), opinions, 1.0)

    def collect(self, written: Written, coefficient: float, moments: RunningMoments) -> Collected:
        found = {**HEALTHY, **self.course[len(self.moments)]}
        self.coefficients.append(coefficient)
        self.moments.append(moments)
        after = replace(moments, count=moments.count + ANSWERS, mean=moments.mean + 1.0)
        described: Any = {name: found[name] for name in ("kl", "length", "ended", "repetition", "answers")}
        summary = Summary(reward=0.5, reward_deviation=0.1, components={}, tokens=sum(LENGTHS), **described)
        return Collected(experience(), after, summary, found["explained_variance"], self.disagreement, 1.0)


@dataclass
class Drawing:
    """Prompts that keep which of them were asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    held_out: Sequence[Prompt] = (Prompt("held out"),)

    def draw(self, cursor: int, count: int) -> list[Prompt]:
        self.asked.append((cursor, count))
        return [Prompt(str(number)) for number in range(cursor, cursor + count)]


@dataclass
class Saves:
    """A saver that keeps the states."""

    states: list[PolicyState] = field(default_factory=list)

    def save(self, state: Any, tensors: Tensors) -> Path:
        self.states.append(state)
        return Path()

    def roll_back(self) -> int:
        return self.states[-1].step


class Reports(Hook):
    def __init__(self) -> None:
        self.heard: list[IterationReport] = []
        self.notices: list[str] = []
        self.ends: list[RunEnd] = []

    def on_iteration(self, report: IterationReport) -> None:
        self.heard.append(report)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)


class Iterations:
    """A trainer of stand-ins, for as many iterations as its course has."""

    def __init__(self, course: Course, state: PolicyState = JUDGED, **settings: Any) -> None:
        self.state = state
        self.collector, self.backend, self.prompts = Answering(course), Recording(course), Drawing()
        self.saves, self.reports = Saves(), Reports()
        chosen = config(**{"iterations": state.step + len(course), "eval_iterations": 99, **settings})
        parts: Any = (self.backend, self.collector, self.prompts, self.saves, self.reports)
        self._trainer = PolicyTrainer(chosen, *parts)

    def run(self) -> PolicyState:
        return self._trainer.run(self.state)
