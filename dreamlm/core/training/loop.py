"""The training loop: fetch -> forward and backward -> finite? -> clip and step -> report -> evaluate -> save.

What a step computes is the backend's business, what anybody wants to know about it is the hooks', and where a
snapshot goes is the saver's. The state is a value: each step makes a new one, and a resume starts from an old one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import final

import torch

from dreamlm.core.errors import LossNotFinite, TrainingFailed
from dreamlm.core.rng import derive_seed
from dreamlm.core.training import memory, sanity
from dreamlm.core.training.backend.backend import Backend, Measured, Update, WindowBatch
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.curriculum import Curriculum
from dreamlm.core.training.diagnosis import name_cause
from dreamlm.core.training.interruption import StopRequest
from dreamlm.core.training.lengths import LengthSchedule, cut_rows
from dreamlm.core.training.memory import Phase, micro_batch_too_large, within_memory
from dreamlm.core.training.repeating import repeat_until_it_fits
from dreamlm.core.training.saving import SavePlan, Saving, roll_back_together
from dreamlm.core.training.schedules import Schedule
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Surroundings
from dreamlm.core.training.telling import Teller
from dreamlm.core.types import Stream, Window


@final
class Trainer:
    """Runs steps until `train_tokens` are reached, a signal asks to stop, or going on makes no sense."""

    def __init__(
        self, config: TrainingConfig, backend: Backend, stream: Stream, schedule: Schedule, around: Surroundings
    ) -> None:
        self._config, self._backend, self._stream, self._schedule = config, backend, stream, schedule
        self._saver, self._hooks, self._around = around.saver, around.hooks, around
        self._lengths = LengthSchedule(config.lengths, stream.seq_length)
        self._curriculum = Curriculum(config.curriculum)
        self._teller = Teller(config, backend, around.hooks, stream.targets_per_window, self._lengths, self._curriculum)
        self._imported = False
        self._first_weights: dict[str, tuple[float, float]] = {}
        self._looked = False
        plan = SavePlan(config.save_interval_steps, config.save_interval_seconds, config.retry_seconds)
        self._saving = Saving(plan, around.saver, around.hooks, backend)

    def run(self, state: TrainingState, fresh: bool, imported: bool = False) -> TrainingState:
        """Train from `state`. `fresh`: no step was taken yet; random weights must then have a loss of ln V.

        `imported`: the first weights were a trained model's, which need neither have that loss nor fall from the start.

        Raises: Interrupted after a signal, once a snapshot is committed; TrainingFailed, OutOfMemory among it;
        OutOfSpace; MicroBatchTooLarge when other processes wait and all must be started again: no end is told then.
        """
        self._imported = imported
        with StopRequest(self._hooks.on_notice) as stop:
            self._enter(state.step)  # the first snapshot is one of the first stage
            self._teller.start(state)
            if fresh:
                with self._backend.whole():
                    self._check_fresh(state)
                self._save(state)
            while state.tokens < self._config.train_tokens:
                before, state = state, self._step(state)
                finished = state.tokens >= self._config.train_tokens
                if finished or self._passed(before, state, self._config.eval_tokens):
                    state = self._evaluate(state)
                stopping = self._backend.any(stop.number != 0)
                improved = state.best_validation_loss != before.best_validation_loss
                if finished or stopping or improved or self._saving.is_due(state.step):
                    self._save(state, stop)
                if stopping and not finished:
                    self._teller.end("interrupted", state)
                    raise stop.ended(f"step {state.step}")
        self._teller.end("finished", state)
        return state

    def _step(self, state: TrainingState) -> TrainingState:
        """One optimizer step."""
        self._enter(state.step)
        self._teller.stage(state)
        windows, cursor = self._stream.draw(state.cursor, state.global_rows)
        length = self._length(state)
        loss_factors = self._backend.model.config.loss_factors(state.progress)
        self._backend.weigh(loss_factors)
        with self._on_record(state, memory.READING):
            state, micro_batches, measured = self._forward_backward(state, windows, length)
        with self._on_record(state, memory.UPDATING):
            update = self._update(state, measured)
        state = replace(
            state,
            cursor=cursor,
            step=state.step + 1,
            tokens=state.tokens + (measured.tokens if update.applied else 0),
            skipped_steps=state.skipped_steps + (not update.applied),
            skipped_in_a_row=0 if update.applied else state.skipped_in_a_row + 1,
        )
        self._teller.step(state, measured, update, length, loss_factors)
        if not update.applied:
            self._skipped(state, measured, micro_batches)
        with self._on_record(state, memory.CHECKING):
            state = self._check_early(state, measured) if self._config.sanity_checks else state
        return self._with_rows(state, measured)

    def _enter(self, step: int) -> None:
        if self._curriculum.enter(self._backend.model, step) and self._config.compile:
            torch.compiler.reset()  # what was compiled for another stage only counts against the limit of compilations

    def _length(self, state: TrainingState) -> int:
        """Targets of this step's rows; says so where they change."""
        length = self._lengths.at(state.progress)
        before = replace(state, step=state.step - 1).progress if state.step else 1.0
        if length != self._lengths.at(before):
            self._hooks.on_notice(f"step {state.step + 1}: rows of {length} tokens from here on")
        return length

    def _forward_backward(
        self, state: TrainingState, windows: Sequence[Window], length: int
    ) -> tuple[TrainingState, list[WindowBatch], Measured]:
        """Tried again with half the micro-batch while memory does not suffice."""
        process_rows = state.global_rows // self._backend.world_size

        def compute(rows: int) -> tuple[TrainingState, list[WindowBatch], Measured]:
            fewer = replace(state, micro_rows=rows, sizing=state.sizing.ran_out(rows))
            now = fewer if rows < state.micro_rows else state
            with within_memory(memory.READING.failure):  # it reads all of them, however many rows each has
                micro_batches = self._share(now, windows, length)
            if state.step == 0:
                model, padding_id = self._backend.model, self._around.padding_id
                sanity.check_batch(micro_batches[0].batch, model.vocab_size, padding_id, model.config.image_form)
            self._looked |= self._backend.model.vision.looks and any(micro.batch.pictures for micro in micro_batches)
            self._around.rows.begin(now)
            measured = self._backend.forward_backward(micro_batches)
            self._around.rows.end()
            return now, micro_batches, measured

        too_large = partial(micro_batch_too_large, process_rows=process_rows)
        return repeat_until_it_fits(self._backend, state.micro_rows, compute, too_large, self._hooks.on_notice)

    def _share(self, state: TrainingState, windows: Sequence[Window], length: int) -> list[WindowBatch]:
        """This rank's micro-batches. Numbered over all ranks, so that a micro-batch is the same at any world size."""
        rows, world_size = state.micro_rows, self._backend.world_size
        mine = range(self._backend.rank, state.global_rows // rows, world_size)
        return [
            WindowBatch(
                cut_rows(self._stream.read(windows[number * rows : (number + 1) * rows]), length),
                derive_seed(state.seed, "forward", state.step, number),
            )
            for number in mine
        ]

    def _update(self, state: TrainingState, measured: Measured) -> Update:
        factor = self._schedule.factor(state.step)
        if not math.isfinite(measured.nll):
            self._backend.discard()
            return Update(math.nan, 0.0, applied=False)
        return self._backend.update(factor)

    def _skipped(self, state: TrainingState, measured: Measured, micro_batches: Sequence[WindowBatch]) -> None:
        kind = "gradient" if math.isfinite(measured.nll) else "loss"
        with self._on_record(state, memory.DIAGNOSING):
            with self._backend.whole():
                cause = name_cause(self._backend, self._stream, micro_batches)
            self._hooks.on_notice(f"step {state.step} skipped, its {kind} is not finite: {cause}")
            if state.skipped_in_a_row >= self._config.max_skipped_steps:
                raise self._given_up(f"{state.skipped_in_a_row} steps in a row were not finite; last: {cause}")

    def _given_up(self, why: str) -> TrainingFailed:
        """Collective."""
        step = roll_back_together(self._saver, self._backend)
        return TrainingFailed(
            f"{why}; the run is back at its last finite snapshot, step {step}",
            hint="continue with a lower rate: --set train.optimizer.learning_rate=... --allow-changes",
        )

    def _check_fresh(self, state: TrainingState) -> None:
        if self._config.sanity_checks:
            if not self._imported:
                with self._on_record(state, memory.CHECKING):
                    sanity.check_initial_loss(self._backend, self._stream.seq_length)
            model = self._backend.model
            self._first_weights = sanity.weight_sums(model, leave_out=sanity.may_rest(model))

    def _check_early(self, state: TrainingState, measured: Measured) -> TrainingState:
        if self._first_weights and state.step == sanity.MOVING_STEPS and not state.skipped_steps:
            looked, stage = self._backend.any(self._looked), self._curriculum.place(state.step - 1)
            follow = stage is not None and stage.last_step is not None
            with self._backend.whole():
                remark = sanity.check_weights_moved(self._first_weights, self._backend.model, looked, follow)
            if remark:
                self._hooks.on_notice(remark)
        if len(state.early_losses) >= sanity.EARLY_STEPS or not math.isfinite(measured.nll) or self._imported:
            return state
        losses = (*state.early_losses, measured.nll)
        if len(losses) == sanity.EARLY_STEPS:
            sanity.check_loss_falls(losses)
        return replace(state, early_losses=losses)

    @contextmanager
    def _on_record(self, state: TrainingState, phase: Phase) -> Iterator[None]:
        """A phase that fails, or lacks memory, ends the run, which is to be told like any other end."""
        try:
            with within_memory(phase.failure):
                yield
        except TrainingFailed:
            self._teller.end("failed", state)
            raise

    def _with_rows(self, state: TrainingState, measured: Measured) -> TrainingState:
        state, notice = self._around.rows.choose(state, measured.nll, self._backend)
        if notice:
            self._hooks.on_notice(notice)
        return state

    def _evaluate(self, state: TrainingState) -> TrainingState:
        with self._on_record(state, memory.EVALUATING), self._backend.whole():
            try:
                found = self._around.validate()
            except LossNotFinite as error:
                raise self._given_up(f"on held-out text {error.what}") from error
            with within_memory(memory.SAMPLING.failure):
                samples = self._around.sample(state.step)
        best = state.best_validation_loss is None or found.nll < state.best_validation_loss
        self._teller.evaluation(state, found, best)
        for sample in samples:
            self._hooks.on_sample(sample)
        self._teller.pause()
        lowest = found.nll if best else state.best_validation_loss
        return replace(state, last_validation_loss=found.nll, best_validation_loss=lowest, validated_step=state.step)

    def _passed(self, before: TrainingState, after: TrainingState, interval_tokens: int) -> bool:
        return before.tokens // interval_tokens != after.tokens // interval_tokens

    def _save(self, state: TrainingState, stop: StopRequest | None = None) -> None:
        with self._on_record(state, memory.SAVING):
            self._saving.save(state, stop)
        self._teller.pause()
