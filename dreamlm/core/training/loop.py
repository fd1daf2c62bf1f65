"""The training loop: fetch -> forward and backward -> finite? -> clip and step -> report -> evaluate -> save.

What a step computes is the backend's business, what anybody wants to know about it is the hooks', and where a
snapshot goes is the saver's. The state is a value: each step makes a new one, and a resume starts from an old one.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import final

import torch

from dreamlm.core.errors import Interrupted, LossNotFinite, MicroBatchTooLarge, TrainingFailed
from dreamlm.core.rng import derive_seed
from dreamlm.core.training import memory, sanity
from dreamlm.core.training.backend.backend import Backend, Measured, Tensors, Update, WindowBatch
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.diagnosis import name_cause
from dreamlm.core.training.hooks import EvaluationReport, RunEnd, RunStart, StepReport
from dreamlm.core.training.interruption import StopRequest
from dreamlm.core.training.memory import Phase, micro_batch_too_large, within_memory
from dreamlm.core.training.meters import Throughput, matmul_peak, training_flops_per_token
from dreamlm.core.training.saving import save_patiently
from dreamlm.core.training.schedules import Schedule
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Surroundings
from dreamlm.core.types import Stream, Window


@final
class Trainer:
    """Runs steps until `train_tokens` are reached, a signal asks to stop, or going on makes no sense."""

    def __init__(
        self, config: TrainingConfig, backend: Backend, stream: Stream, schedule: Schedule, around: Surroundings
    ) -> None:
        self._config, self._backend, self._stream, self._schedule = config, backend, stream, schedule
        self._saver, self._hooks, self._around = around.saver, around.hooks, around
        self._throughput = Throughput()
        self._begun, self._imported = 0.0, False
        self._last_nll: float | None = None
        self._last_bits_per_byte: float | None = None
        self._first_weights: dict[str, tuple[float, float]] = {}
        self._saved_at = time.monotonic()
        with backend.whole():
            self._parameters = sum(parameter.numel() for parameter in backend.model.parameters())
            self._flops_per_token = training_flops_per_token(backend.model, stream.seq_length)
        dtype = torch.bfloat16 if backend.precision == "bf16" else torch.float32
        self._peak_flops = matmul_peak(backend.device, dtype) * backend.world_size

    def run(self, state: TrainingState, fresh: bool, imported: bool = False) -> TrainingState:
        """Train from `state`. `fresh`: no step was taken yet; random weights must then have a loss of ln V.

        `imported`: the first weights were a trained model's, which need neither have that loss nor fall from the start.

        Raises: Interrupted after a signal, once a snapshot is committed; TrainingFailed, OutOfMemory among it;
        OutOfSpace; MicroBatchTooLarge when other processes wait and all must be started again: no end is told then.
        """
        self._begun, self._imported = time.monotonic(), imported
        with StopRequest(self._hooks.on_notice) as stop:
            self._start(state)
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
                if finished or stopping or improved or self._save_is_due(state):
                    self._save(state, stop)
                if stopping and not finished:
                    self._end("interrupted", state)
                    raise Interrupted(stop.number or 15, f"stopped at step {state.step}; a snapshot was saved")
        self._end("finished", state)
        return state

    def _step(self, state: TrainingState) -> TrainingState:
        """One optimizer step."""
        windows, cursor = self._stream.draw(state.cursor, state.global_rows)
        with self._on_record(state, memory.READING):
            state, micro_batches, measured = self._forward_backward(state, windows)
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
        self._report(state, measured, update)
        if not update.applied:
            self._skipped(state, measured, micro_batches)
        with self._on_record(state, memory.CHECKING):
            return self._check_early(state, measured) if self._config.sanity_checks else state

    def _forward_backward(
        self, state: TrainingState, windows: Sequence[Window]
    ) -> tuple[TrainingState, list[WindowBatch], Measured]:
        """Tried again with half the micro-batch while memory does not suffice."""
        process_rows = self._config.per_gpu_batch_size * self._config.accumulation_steps
        while True:
            micro_batches = self._share(state, windows)
            if state.step == 0:
                sanity.check_batch(micro_batches[0].batch, self._backend.model.vocab_size, self._around.padding_id)
            try:
                with within_memory(partial(micro_batch_too_large, state.micro_rows, process_rows)):
                    return state, micro_batches, self._backend.forward_backward(micro_batches)
            except MicroBatchTooLarge as error:
                if not self._backend.can_repeat:
                    raise
                state = self._with_less_memory(state, error)

    def _share(self, state: TrainingState, windows: Sequence[Window]) -> list[WindowBatch]:
        """This rank's micro-batches. Numbered over all ranks, so that a micro-batch is the same at any world size."""
        rows, world_size = state.micro_rows, self._backend.world_size
        mine = range(self._backend.rank, state.global_rows // rows, world_size)
        return [
            WindowBatch(
                self._stream.read(windows[number * rows : (number + 1) * rows]),
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
        step = self._saver.roll_back()
        return TrainingFailed(
            f"{why}; the run is back at its last finite snapshot, step {step}",
            hint="continue with a lower rate: --set train.optimizer.learning_rate=... --allow-changes",
        )

    def _check_fresh(self, state: TrainingState) -> None:
        if self._config.sanity_checks:
            if not self._imported:
                with self._on_record(state, memory.CHECKING):
                    sanity.check_initial_loss(self._backend, self._stream.seq_length)
            self._first_weights = sanity.weight_sums(self._backend.model)

    def _check_early(self, state: TrainingState, measured: Measured) -> TrainingState:
        if self._first_weights and state.step == sanity.MOVING_STEPS and not state.skipped_steps:
            with self._backend.whole():
                sanity.check_weights_moved(self._first_weights, self._backend.model)
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
            self._end("failed", state)
            raise

    def _with_less_memory(self, state: TrainingState, error: MicroBatchTooLarge) -> TrainingState:
        self._backend.discard()
        self._hooks.on_notice(f"{error.remedy}; the step is the same")
        return replace(state, micro_rows=error.fewer)

    def _evaluate(self, state: TrainingState) -> TrainingState:
        with self._on_record(state, memory.EVALUATING), self._backend.whole():
            try:
                found = self._around.validate()
            except LossNotFinite as error:
                raise self._given_up(f"on held-out text {error.what}") from error
            with within_memory(memory.SAMPLING.failure):
                samples = self._around.sample(state.step)
        self._last_bits_per_byte = found.bits_per_byte
        best = state.best_validation_loss is None or found.nll < state.best_validation_loss
        self._hooks.on_evaluation(
            EvaluationReport(
                step=state.step,
                tokens=state.tokens,
                nll=found.nll,
                perplexity=math.exp(min(found.nll, 700.0)),
                bits_per_byte=found.bits_per_byte,
                sources=found.sources,
                best=best,
            )
        )
        for sample in samples:
            self._hooks.on_sample(sample)
        self._throughput.restart()
        lowest = found.nll if best else state.best_validation_loss
        return replace(state, last_validation_loss=found.nll, best_validation_loss=lowest, validated_step=state.step)

    def _passed(self, before: TrainingState, after: TrainingState, interval_tokens: int) -> bool:
        return before.tokens // interval_tokens != after.tokens // interval_tokens

    def _save_is_due(self, state: TrainingState) -> bool:
        every = self._config.save_interval_steps
        late = time.monotonic() - self._saved_at >= self._config.save_interval_seconds
        return self._backend.any((every is not None and state.step % every == 0) or (self._backend.rank == 0 and late))

    def _save(self, state: TrainingState, stop: StopRequest | None = None) -> None:
        """Commit a snapshot; while the disk is full, wait for space instead of dying, unless training has not begun."""

        def gather() -> Tensors:
            with self._on_record(state, memory.SAVING):
                return self._backend.gather()

        def may_wait() -> bool:
            return stop is not None and not stop.number

        save_patiently(self._saver, self._hooks, state, gather, may_wait, self._config.retry_seconds)
        self._saved_at = time.monotonic()
        self._throughput.restart()

    def _start(self, state: TrainingState) -> None:
        tokens_per_step = state.global_rows * self._stream.seq_length
        coming = math.ceil((self._config.train_tokens - state.tokens) / tokens_per_step)
        self._hooks.on_start(
            RunStart(
                step=state.step,
                planned_steps=state.step + coming,
                tokens=state.tokens,
                train_tokens=self._config.train_tokens,
                tokens_per_step=tokens_per_step,
                parameters=self._parameters,
                vocab_size=self._backend.model.vocab_size,
                precision=self._backend.precision,
                device=str(self._backend.device),
                world_size=self._backend.world_size,
                resumed=state.step > 0,
            )
        )
        self._throughput.restart()

    def _report(self, state: TrainingState, measured: Measured, update: Update) -> None:
        self._last_nll = measured.nll
        tokens_per_second, seconds = self._throughput.count(measured.tokens)
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
                mfu=tokens_per_second * self._flops_per_token / self._peak_flops,
                seconds=seconds,
            )
        )

    def _end(self, reason: str, state: TrainingState) -> None:
        self._hooks.on_end(
            RunEnd(
                reason=reason,
                step=state.step,
                tokens=state.tokens,
                seconds=time.monotonic() - self._begun,
                nll=self._last_nll,
                validation_nll=state.last_validation_loss,
                bits_per_byte=self._last_bits_per_byte,
            )
        )
