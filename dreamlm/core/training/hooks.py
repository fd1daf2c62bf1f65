"""The named moments of a run, and who listens: logging, live lines and metrics hang here, never in the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final


@dataclass(frozen=True)
class RunStart:
    """What is known before the first step."""

    step: int
    planned_steps: int
    tokens: int
    train_tokens: int
    tokens_per_step: int
    parameters: int
    vocab_size: int
    precision: str
    device: str
    world_size: int
    resumed: bool


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. Losses are nats per real token."""

    step: int
    tokens: int
    """Real target tokens so far."""
    nll: float
    """Unsmoothed, without auxiliaries, on this step's training tokens."""
    objectives: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    applied: bool
    tokens_per_second: float
    mfu: float | None
    """Share of the measured matmul peak; None before it was measured."""
    seconds: float
    probes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values that the model's parts show, by name, flat."""


@dataclass(frozen=True)
class EvaluationReport:
    """Held-out measurement; `perplexity` and `bits_per_byte` follow from `nll`."""

    step: int
    tokens: int
    nll: float
    perplexity: float
    bits_per_byte: float
    sources: Mapping[str, float]
    """Nats per token of each source."""
    best: bool


@dataclass(frozen=True)
class Sample:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    step: int
    folder: str
    seconds: float


@dataclass(frozen=True)
class RunEnd:
    """`reason` is finished, already_finished, interrupted or failed."""

    reason: str
    step: int
    tokens: int
    seconds: float
    nll: float | None
    validation_nll: float | None
    bits_per_byte: float | None


class Hook:
    """Listens at named moments. This one does nothing; a real one overrides the moments it cares for."""

    def on_start(self, start: RunStart) -> None:
        """Before the first step of this process."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step, applied or skipped."""

    def on_evaluation(self, report: EvaluationReport) -> None:
        """After each held-out evaluation."""

    def on_sample(self, sample: Sample) -> None:
        """After each generated sample."""

    def on_save(self, saved: Saved) -> None:
        """After a snapshot was committed."""

    def on_notice(self, text: str) -> None:
        """Something the user should read."""

    def on_end(self, end: RunEnd) -> None:
        """Once, however the run ends on purpose."""


@final
class Hooks(Hook):
    """Passes every moment on to each of its hooks, in order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)

    def _tell(self, moment: str, value: Any) -> None:
        for hook in self._hooks:
            getattr(hook, moment)(value)

    def on_start(self, start: RunStart) -> None:
        self._tell("on_start", start)

    def on_step(self, report: StepReport) -> None:
        self._tell("on_step", report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._tell("on_evaluation", report)

    def on_sample(self, sample: Sample) -> None:
        self._tell("on_sample", sample)

    def on_save(self, saved: Saved) -> None:
        self._tell("on_save", saved)

    def on_notice(self, text: str) -> None:
        self._tell("on_notice", text)

    def on_end(self, end: RunEnd) -> None:
        self._tell("on_end", end)
