"""The training loop of a reward model: draw pairs -> forward and backward -> finite? -> step -> measure -> save.

A fixed number of epochs, each followed by a measurement on the held-out pairs. There is no early stop: the store keeps
the snapshot with the lowest held-out loss, and that one is offered. Which pairs a step sees is a pure function of the
seed and the step, so a run that goes on from a snapshot ends with the same weights, bit for bit on a CPU. Several
processes share the pairs of a step, and end with the weights of one up to rounding.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np

from dreamlm.core.errors import LossNotFinite, TrainingFailed
from dreamlm.core.rl.pair_measuring import judge_together, measure_on_pairs
from dreamlm.core.rl.pair_reading import ReadPair
from dreamlm.core.rl.pair_sharing import PER_MICRO_BATCH, pairs_too_large, share_of
from dreamlm.core.rl.reward_config import RewardConfig
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.rng import derive_seed
from dreamlm.core.training import memory
from dreamlm.core.training.backend.backend import Backend, Measured, Update
from dreamlm.core.training.hooks import Hook, PreferenceMeasured, RunEnd, RunStart, StepReport
from dreamlm.core.training.interruption import StopRequest
from dreamlm.core.training.memory import Phase, within_memory
from dreamlm.core.training.meters import Throughput
from dreamlm.core.training.repeating import repeat_until_it_fits
from dreamlm.core.training.saving import SavePlan, Saver, Saving, roll_back_together

READING = Phase(
    "reading the pairs of a step",
    f"lower {PER_MICRO_BATCH}: the steps stay the same",
    PER_MICRO_BATCH,
)
MEASURING = Phase("measuring the reward model on held-out pairs", "start from a smaller model")


@dataclass(frozen=True)
class RewardData:
    """The pairs of a run."""

    train: Sequence[ReadPair]
    held_out: Sequence[ReadPair]

    def steps(self, config: RewardConfig) -> int:
        """Optimizer steps of a whole run."""
        return config.epochs * self.steps_per_epoch(config)

    def steps_per_epoch(self, config: RewardConfig) -> int:
        return math.ceil(len(self.train) / config.pairs_per_step)

    def draw(self, config: RewardConfig, step: int) -> list[ReadPair]:
        """The pairs of a step (from 0): every epoch sees each pair once, in an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch(config))
        order = np.random.default_rng(derive_seed(config.seed, "order of pairs", epoch)).permutation(len(self.train))
        begin = place * config.pairs_per_step
        return [self.train[number] for number in order[begin : begin + config.pairs_per_step]]


@final
class RewardTrainer:
    """Runs steps until the epochs are over, a signal asks to stop, or going on makes no sense."""

    def __init__(
        self, config: RewardConfig, backend: Backend, model: RewardModel, data: RewardData, saver: Saver, hooks: Hook
    ) -> None:
        """`backend` trains a `PreferenceObjective` over `model`."""
        self._config, self._backend, self._model, self._data = config, backend, model, data
        self._saver, self._hooks = saver, hooks
        self._throughput = Throughput()
        self._begun = time.monotonic()
        self._last_loss: float | None = None
        plan = SavePlan(config.save_interval_steps, config.save_interval_seconds, config.retry_seconds)
        self._saving = Saving(plan, saver, hooks, backend)
        with backend.whole():
            self._parameters = sum(parameter.numel() for parameter in model.parameters())

    def run(self, state: RewardState) -> RewardState:
        """Train from `state`, which is not finished.

        Raises: Interrupted after a signal, once a snapshot is committed; TrainingFailed, OutOfMemory among it;
        OutOfSpace before the first step; MicroBatchTooLarge when other processes wait and all must be started again: no
        end is told then.
        """
        self._begun = time.monotonic()
        schedule = self._config.schedule.build(state.planned_steps)
        with StopRequest(self._hooks.on_notice) as stop:
            self._start(state)
            if state.step == 0:
                self._save(state)
            while not state.finished:
                state = self._step(state, schedule.factor(state.step))
                measured = state.step % self._data.steps_per_epoch(self._config) == 0
                if measured:
                    state = self._measure(state)
                stopping = self._backend.any(stop.number != 0)
                if measured or stopping or self._saving.is_due(state.step):
                    self._save(state, stop)
                if stopping and not state.finished:
                    self._end("interrupted", state)
                    raise stop.ended(f"step {state.step}")
        self._end("finished", state)
        return state

    def _step(self, state: RewardState, factor: float) -> RewardState:
        """One optimizer step."""
        pairs = self._data.draw(self._config, state.step)
        with self._on_record(state, READING):
            state, measured = self._forward_backward(state, pairs)
        with self._on_record(state, memory.UPDATING):
            update = self._update(measured, factor)
        tokens = sum(pair.tokens for pair in pairs)
        state = replace(
            state,
            step=state.step + 1,
            tokens=state.tokens + tokens,
            skipped_in_a_row=0 if update.applied else state.skipped_in_a_row + 1,
        )
        self._report(state, measured, update, tokens)
        if state.skipped_in_a_row >= self._config.max_skipped_steps:
            self._end("failed", state)
            raise self._given_up(f"{state.skipped_in_a_row} steps in a row were not finite")
        return state

    def _forward_backward(self, state: RewardState, pairs: Sequence[ReadPair]) -> tuple[RewardState, Measured]:
        """Tried again with half the micro-batch while memory does not suffice."""
        backend, padding_id = self._backend, self._model.tokenizer.padding_id

        first = state.micro_pairs or self._config.pairs_per_micro_batch

        def compute(micro_pairs: int) -> tuple[RewardState, Measured]:
            share = share_of(pairs, micro_pairs, padding_id, backend.rank, backend.world_size)
            remembered = state if micro_pairs == first else replace(state, micro_pairs=micro_pairs)
            return remembered, backend.forward_backward(share)

        return repeat_until_it_fits(backend, first, compute, pairs_too_large, self._hooks.on_notice)

    def _update(self, measured: Measured, factor: float) -> Update:
        if not math.isfinite(measured.nll):
            self._backend.discard()
            return Update(math.nan, 0.0, applied=False)
        return self._backend.update(factor)

    def _measure(self, state: RewardState) -> RewardState:
        """Ask the held-out pairs, in fp32: as whoever uses the model will."""
        with self._on_record(state, MEASURING), self._backend.whole():
            try:
                judge = partial(judge_together, self._model, self._backend)
                report = measure_on_pairs(judge, self._data.held_out, looks=self._config.epochs)
            except LossNotFinite as error:
                raise self._given_up(error.what) from error
        best = state.best_loss is None or report.loss < state.best_loss
        self._hooks.on_preference(
            PreferenceMeasured(
                step=state.step,
                tokens=state.tokens,
                pairs=report.pairs,
                accuracy=report.accuracy,
                accuracy_interval=(report.accuracy_interval.low, report.accuracy_interval.high),
                above_chance=report.above_chance,
                loss=report.loss,
                calibration_error=report.calibration_error,
                mean_margin=report.mean_margin,
                mean_confidence=report.mean_confidence,
                best=best,
            )
        )
        self._throughput.restart()
        return replace(
            state, report=report, measured_step=state.step, best_loss=report.loss if best else state.best_loss
        )

    def _given_up(self, why: str) -> TrainingFailed:
        """Collective."""
        step = roll_back_together(self._saver, self._backend)
        return TrainingFailed(
            f"{why}; the run is back at its last finite snapshot, step {step}",
            hint="start another run with a lower rate: --set rl.reward_model.optimizer.learning_rate=...",
        )

    @contextmanager
    def _on_record(self, state: RewardState, phase: Phase) -> Iterator[None]:
        """A phase that fails, or lacks memory, ends the run, which is to be told like any other end."""
        try:
            with within_memory(phase.failure):
                yield
        except TrainingFailed:
            self._end("failed", state)
            raise

    def _save(self, state: RewardState, stop: StopRequest | None = None) -> None:
        with self._on_record(state, memory.SAVING):
            self._saving.save(state, stop)
        self._throughput.restart()

    def _start(self, state: RewardState) -> None:
        epoch_tokens = sum(pair.tokens for pair in self._data.train)
        self._hooks.on_start(
            RunStart(
                step=state.step,
                planned_steps=state.planned_steps,
                tokens=state.tokens,
                train_tokens=epoch_tokens * self._config.epochs,
                tokens_per_step=epoch_tokens // self._data.steps_per_epoch(self._config),
                parameters=self._parameters,
                vocab_size=self._backend.model.vocab_size,
                precision=self._backend.precision,
                device=str(self._backend.device),
                world_size=self._backend.world_size,
                resumed=state.step > 0,
            )
        )
        self._throughput.restart()

    def _report(self, state: RewardState, measured: Measured, update: Update, tokens: int) -> None:
        self._last_loss = measured.nll
        tokens_per_second, seconds = self._throughput.count(tokens)
        self._hooks.on_step(
            StepReport(
                step=state.step,
                tokens=state.tokens,
                nll=measured.nll,
                objectives=measured.objectives,
                probes=measured.probes,
                gradient_norm=update.gradient_norm,
                learning_rate=update.learning_rate,
                applied=update.applied,
                tokens_per_second=tokens_per_second,
                mfu=None,
                seconds=seconds,
            )
        )

    def _end(self, reason: str, state: RewardState) -> None:
        loss = state.report.loss if state.report else None
        seconds = time.monotonic() - self._begun
        self._hooks.on_end(RunEnd(reason, state.step, state.tokens, seconds, self._last_loss, loss, None))
