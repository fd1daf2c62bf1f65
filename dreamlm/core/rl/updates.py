"""The updates of one iteration: every mini-batch of every epoch, until the policy has moved too far."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.objectives.ppo import RATIO_ERROR
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.experience import Experience, ExperienceBatch
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rng import derive_seed
from dreamlm.core.training.backend.backend import Backend, Measured, Update
from dreamlm.core.training.hooks import Hook

RATIO_TOLERANCE = 1e-5
"""How far the probability ratios of an iteration's first update may be from 1; they are equal by construction."""

Epoch: TypeAlias = list[list[list[int]]]
"""For each optimizer step its micro-batches: numbers of this process's answers."""


@dataclass(frozen=True)
class Moved:
    """What the updates of an iteration did."""

    measured: Sequence[Measured]
    updates: Sequence[Update]
    asked: int
    """Updates that would have been made without an early stop."""
    seconds: float

    def mean(self, name: str) -> float:
        """Of an objective, over the updates whose loss was finite; NaN when none was."""
        values = [one.objectives[name] for one in self.measured if _is_finite(one)]
        return statistics.fmean(values) if values else math.nan

    @property
    def skipped(self) -> float:
        """Share of the asked updates whose loss or gradient was not finite."""
        return sum(not update.applied for update in self.updates) / self.asked

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.measured)

    @property
    def gradient_norm(self) -> float:
        """Mean before clipping, over the updates that were applied; NaN when none was."""
        norms = [update.gradient_norm for update in self.updates if update.applied]
        return statistics.fmean(norms) if norms else math.nan

    @property
    def learning_rate(self) -> float:
        return max((update.learning_rate for update in self.updates), default=0.0)


@final
class Updater:
    """Turns experience into optimizer steps."""

    def __init__(self, config: PolicyConfig, backend: Backend, hooks: Hook) -> None:
        self._config, self._backend, self._hooks = config, backend, hooks

    def plan(self, state: PolicyState, answers: int) -> list[Epoch]:
        """Which of this process's answers each update of the coming iteration sees."""
        return [self._minibatches(state, epoch, answers) for epoch in range(self._config.passes)]

    def _minibatches(self, state: PolicyState, epoch: int, answers: int) -> Epoch:
        """This process's answers in a fresh order: for each optimizer step, its micro-batches."""
        seed = derive_seed(state.seed, "mini-batches", state.step, epoch, self._backend.rank)
        order = np.random.default_rng(seed).permutation(answers).tolist()
        size = self._config.minibatch // self._backend.world_size
        micro = min(self._config.micro_batch, size)
        return [
            [order[begin : begin + micro] for begin in range(start, start + size, micro)]
            for start in range(0, answers, size)
        ]

    def update(
        self, state: PolicyState, experience: Sequence[Experience], plan: Sequence[Epoch]
    ) -> tuple[PolicyState, Moved]:
        """Every mini-batch of every epoch, until the policy has moved too far or too many were not finite."""
        begin, asked = time.monotonic(), sum(map(len, plan))
        measured: list[Measured] = []
        updates: list[Update] = []
        for epoch, minibatches in enumerate(plan):
            for number, groups in enumerate(minibatches):
                micro_batches = [
                    ExperienceBatch.of(
                        [experience[one] for one in group],
                        state.kl_coefficient if self._config.kl.applied == "loss" else 0.0,
                        derive_seed(state.seed, "update", state.step, epoch, number, place),
                    )
                    for place, group in enumerate(groups)
                ]
                found = self._backend.forward_backward(micro_batches)
                if not measured and _is_finite(found):
                    self._require_ratio_of_one(found, len(micro_batches))
                measured.append(found)
                if found.objectives["approx_kl"] > self._config.stop_kl:
                    self._backend.discard()
                    return state, Moved(measured, updates, asked, time.monotonic() - begin)
                update = self._step(state, found)
                updates.append(update)
                state = self._counted(state, update)
                if state.skipped_in_a_row >= self._config.max_skipped_updates:
                    return state, Moved(measured, updates, asked, time.monotonic() - begin)
        return state, Moved(measured, updates, asked, time.monotonic() - begin)

    def _require_ratio_of_one(self, found: Measured, micro_batches: int) -> None:
        """Before the first update the policy is the one that wrote the answers."""
        # The mean over micro-batches and processes times their number bounds the largest.
        error = found.probes[RATIO_ERROR][0] * micro_batches * self._backend.world_size
        if not error <= RATIO_TOLERANCE:
            raise TrainingFailed(
                f"the probability ratio of the first update is not 1: {error:.2g} off",
                hint="the same computation gave two results: this is a bug of dreamlm, please report it",
            )

    def _step(self, state: PolicyState, found: Measured) -> Update:
        if not _is_finite(found):
            self._backend.discard()
            return Update(math.nan, 0.0, applied=False)
        return self._backend.update(state.rate_factor)

    def _counted(self, state: PolicyState, update: Update) -> PolicyState:
        if update.applied:
            return replace(state, updates=state.updates + 1, skipped_in_a_row=0)
        state = replace(state, skipped_in_a_row=state.skipped_in_a_row + 1)
        self._hooks.on_notice(f"iteration {state.step + 1}: an update was skipped, its loss or gradient is not finite")
        return state


def _is_finite(found: Measured) -> bool:
    return all(map(math.isfinite, (found.nll, *found.objectives.values())))
