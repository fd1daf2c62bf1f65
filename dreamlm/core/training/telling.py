"""What the loop tells its hooks: it knows what was measured, this knows how it is reported."""

import math
import time
from collections.abc import Mapping
from typing import final

import torch

from dreamlm.core.training.backend.backend import Backend, Measured, Update
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.curriculum import Curriculum
from dreamlm.core.training.hooks import EvaluationReport, Hook, RunEnd, RunStart, StepReport
from dreamlm.core.training.lengths import LengthSchedule
from dreamlm.core.training.meters import Throughput, matmul_peak, training_flops_per_token
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Validation


@final
class Teller:
    """Makes the reports of one run, and measures its speed meanwhile."""

    def __init__(
        self,
        config: TrainingConfig,
        backend: Backend,
        hooks: Hook,
        targets_per_window: float,
        lengths: LengthSchedule,
        curriculum: Curriculum,
    ) -> None:
        """Collective."""
        self._config, self._backend, self._hooks = config, backend, hooks
        self._targets_per_window, self._curriculum = targets_per_window, curriculum
        self._throughput = Throughput()
        self._begun = time.monotonic()
        self._last_nll: float | None = None
        self._last_bits_per_byte: float | None = None
        with backend.whole():
            self._parameters = sum(parameter.numel() for parameter in backend.model.parameters())
            self._flops_per_token = {
                length: training_flops_per_token(backend.model, length) for length in lengths.lengths
            }
        dtype = torch.bfloat16 if backend.precision == "bf16" else torch.float32
        self._peak_flops = matmul_peak(backend.device, dtype) * backend.world_size

    def pause(self) -> None:
        """Leave out of the speed what happened since the last step."""
        self._throughput.restart()

    def start(self, state: TrainingState) -> None:
        self._begun = time.monotonic()
        tokens_per_step = state.global_rows * self._targets_per_window
        planned_steps = state.step + math.ceil((self._config.train_tokens - state.tokens) / tokens_per_step)
        self._hooks.on_start(
            RunStart(
                step=state.step,
                planned_steps=planned_steps,
                tokens=state.tokens,
                train_tokens=self._config.train_tokens,
                tokens_per_step=round(tokens_per_step),
                parameters=self._parameters,
                vocab_size=self._backend.model.vocab_size,
                precision=self._backend.precision,
                device=str(self._backend.device),
                world_size=self._backend.world_size,
                resumed=state.step > 0,
                stage=self._curriculum.place(state.step),
            )
        )
        for remark in self._curriculum.remarks(planned_steps, self._backend.model.config):
            self._hooks.on_notice(remark)
        self.pause()

    def stage(self, state: TrainingState) -> None:
        """`state` is that before a step; says so where a stage begins."""
        if text := self._curriculum.beginning(state.step):
            self._hooks.on_notice(f"step {state.step + 1:,}: {text}")

    def step(
        self,
        state: TrainingState,
        measured: Measured,
        update: Update,
        length: int,
        loss_factors: Mapping[str, float],
    ) -> None:
        """`state` is that after the step, but for the next micro-batch; `length`: targets of a row."""
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
                mfu=tokens_per_second * self._flops_per_token[length] / self._peak_flops,
                seconds=seconds,
                micro_rows=state.micro_rows,
                length=length,
                loss_factors=loss_factors,
                stage=self._curriculum.place(state.step - 1),
            )
        )

    def evaluation(self, state: TrainingState, found: Validation, best: bool) -> None:
        self._last_bits_per_byte = found.bits_per_byte
        self._hooks.on_evaluation(
            EvaluationReport(
                step=state.step,
                tokens=state.tokens,
                nll=found.nll,
                perplexity=math.exp(min(found.nll, 700.0)),
                bits_per_byte=found.bits_per_byte,
                sources=found.sources,
                best=best,
                stage=self._curriculum.place(state.step - 1),
                is_bound=found.is_bound,
                monte_carlo_error=found.monte_carlo_error,
            )
        )

    def end(self, reason: str, state: TrainingState) -> None:
        self._hooks.on_end(
            RunEnd(
                reason=reason,
                step=state.step,
                tokens=state.tokens,
                seconds=time.monotonic() - self._begun,
                nll=self._last_nll,
                validation_nll=state.last_validation_loss,
                bits_per_byte=self._last_bits_per_byte,
                is_bound=self._backend.model.config.fills_blocks,
            )
        )
