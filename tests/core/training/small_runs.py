"""A small training run: its pieces, and a trainer made of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stream_of_text import VOCAB, TextStream

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.augmentation import UNTOUCHED
from dreamlm.core.objectives.choose import objective_of
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import EvaluationReport, Hook, RunEnd, RunStart, Sample, StepReport
from dreamlm.core.training.loop import Trainer
from dreamlm.core.training.rows import RowPolicy, SameRows
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Surroundings, Validation


@dataclass
class Memory(Hook):
    """Remembers every moment."""

    starts: list[RunStart] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    evaluations: list[EvaluationReport] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    ends: list[RunEnd] = field(default_factory=list)

    def on_start(self, start: RunStart) -> None:
        self.starts.append(start)

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self.evaluations.append(report)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)


@dataclass
class Shelf:
    """A saver that keeps copies in memory."""

    saved: list[tuple[TrainingState, Tensors]] = field(default_factory=list)
    rolled_back: bool = False

    def save(self, state: TrainingState, tensors: Tensors) -> Path:
        copies = Tensors(*({k: v.clone() for k, v in part.items()} for part in (tensors.model, tensors.optimizer)))
        self.saved.append((TrainingState.from_json(state.to_json()), copies))
        return Path(f"step-{state.step}")

    def roll_back(self) -> int:
        self.rolled_back = True
        return max(state.step for state, _ in self.saved if state.skipped_in_a_row == 0)


@dataclass
class Run:
    """One small run; `go()` trains it, from the beginning or from a saved state."""

    options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    stream: TextStream = field(default_factory=TextStream)
    hook: Memory = field(default_factory=Memory)
    shelf: Shelf = field(default_factory=Shelf)
    samples: Callable[[int], list[Sample]] = lambda step: []
    validate: Callable[[], Validation] = lambda: Validation(1.0, 1.0, {"text": 1.0})
    rows: RowPolicy = field(default_factory=SameRows)
    decoder: type[DreamLM.Config] = DreamLM.Config

    def config(self) -> TrainingConfig:
        few = {"train_tokens": 4 * 16 * 20, "per_gpu_batch_size": 4, "precision": "fp32", "eval_tokens": 640}
        return TrainingConfig.model_validate({**few, **self.options})

    def backend(self) -> SingleProcess:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 16, "dropout": 0.1}
        model = self.decoder.model_validate({**sizes, **self.model_options}).build(VOCAB)
        config = self.config()
        model.checkpoint_activations(config.activation_checkpointing)
        augmentation = config.augmentation.build(model, VOCAB, 0, 63) if config.augmentation else UNTOUCHED
        objective = objective_of(model, config.label_smoothing, 0, augmentation)
        weights = model.config.loss_weights
        return SingleProcess(
            objective, config.optimizer, weights, config.max_grad_norm, config.precision, compile=False
        )

    def first_state(self) -> TrainingState:
        config = self.config()
        rows = config.per_gpu_batch_size * config.accumulation_steps
        return TrainingState(
            seed=config.seed,
            planned_steps=math.ceil(config.train_tokens / (rows * 16)),
            global_rows=rows,
            micro_rows=config.per_gpu_batch_size,
            precision="fp32",
            corpus="text",
            cursor=self.stream.start(),
        )

    def go(
        self, resume: tuple[TrainingState, Tensors] | None = None, backend: SingleProcess | None = None
    ) -> SingleProcess:
        config, backend = self.config(), backend or self.backend()
        state = self.first_state()
        if resume:
            state = resume[0]
            backend.restore(resume[1])
        around = Surroundings(self.shelf, self.hook, self.validate, self.samples, 63, self.rows)
        trainer = Trainer(config, backend, self.stream, config.schedule.build(state.planned_steps), around)
        trainer.run(state, fresh=state.step == 0)
        return backend
