"""What a person sees of a training run: one live line, the milestones above it, and the outcome as the result."""

from dataclasses import asdict
from typing import Any, final

from dreamlm.cli.console import Console
from dreamlm.cli.live_line import LiveLine, count, duration
from dreamlm.core.errors import is_out_of_space
from dreamlm.core.training.hooks import (
    EvaluationReport,
    Hook,
    IterationReport,
    RewardReport,
    RunEnd,
    RunStart,
    Sample,
    Saved,
    StepReport,
    figures,
    recorded,
)

_MEMORY = 0.9
"""How much of the displayed speed is kept from one step to the next, so that it can be read."""


@final
class LiveTraining(Hook):
    """Draws the run on a live line: step, loss, learning rate, tokens/s, MFU, time left."""

    def __init__(self, console: Console, line: LiveLine) -> None:
        self._console, self._line = console, line
        self._planned_steps = self._train_tokens = 0
        self._speed = self._seconds = 0.0

    def on_start(self, start: RunStart) -> None:
        self._planned_steps, self._train_tokens = start.planned_steps, start.train_tokens
        where = f"{start.precision} on {start.device}"
        if start.world_size > 1:
            where += f" in {start.world_size} processes"
        begins = f"resumes at step {start.step}" if start.resumed else "starts"
        if start.resumed and start.stage is not None:
            begins += f" in stage {start.stage.name}"
        self._console.notice(
            f"training {begins}: {count(start.parameters)} parameters, {count(start.train_tokens)} tokens in "
            f"{start.planned_steps:,} steps of {start.tokens_per_step:,}, {where}"
        )

    def on_step(self, report: StepReport) -> None:
        fresh = report.tokens_per_second
        self._speed = _MEMORY * self._speed + (1 - _MEMORY) * fresh if self._speed else fresh
        parts = [
            f"step {report.step:,}/{self._planned_steps:,}",
            *_stage(report),
            f"loss {report.nll:.3f}",
            f"lr {report.learning_rate:.2e}",
            f"{count(self._speed)} tokens/s",
        ]
        if report.mfu is not None:
            parts.append(f"MFU {report.mfu:.0%}")
        if self._speed:
            parts.append(f"{duration(max(0, self._train_tokens - report.tokens) / self._speed)} left")
        if not report.applied:
            parts.append("skipped")
        self._line.show("  ".join(parts), min(1.0, report.tokens / self._train_tokens) if self._train_tokens else None)

    def on_iteration(self, report: IterationReport) -> None:
        parts = [
            f"iteration {report.step:,}/{self._planned_steps:,}",
            f"reward {report.reward:.3f}",
            f"KL {report.kl:.3f}",
            f"entropy {report.entropy:.2f}",
            f"{report.length:.0f} tokens an answer",
            f"{count(report.rollout_tokens_per_second)} written/s",
        ]
        fresh = report.seconds
        self._seconds = _MEMORY * self._seconds + (1 - _MEMORY) * fresh if self._seconds else fresh
        parts.append(f"{duration((self._planned_steps - report.step) * self._seconds)} left")
        self._line.show("  ".join(parts), report.step / self._planned_steps if self._planned_steps else None)

    def on_reward(self, report: RewardReport) -> None:
        low, high = report.reward_interval or (None, None)
        spread = "" if low is None else f" ({low:.3f} to {high:.3f})"
        best = ", the best so far" if report.best else ""
        self._console.notice(
            f"iteration {report.step:,}: held-out reward {report.reward:.3f}{spread}, "
            f"{report.kl:.3f} nats per token from the reference{best}"
        )

    def on_evaluation(self, report: EvaluationReport) -> None:
        best = ", the best so far" if report.best else ""
        most, error = _bounded(report), f" +-{report.monte_carlo_error:.3f}" if report.is_bound else ""
        self._console.notice(
            f"step {report.step:,}: held-out loss {most}{report.nll:.3f}{error}, "
            f"perplexity {most}{report.perplexity:.2f}, {most}{report.bits_per_byte:.3f} bits per byte{best}"
        )

    def on_sample(self, sample: Sample) -> None:
        shown = " ".join(f"{sample.prompt}{sample.text}".split())
        self._console.notice(f"step {sample.step:,}: it writes: {shown}")

    def on_notice(self, text: str) -> None:
        self._console.notice(text)

    def on_end(self, end: RunEnd) -> None:
        self._console.result(outcome(end))


@final
class JsonTraining(Hook):
    """Each moment as one JSON line on stdout, named by its `event`; notices stay on stderr.

    Training goes on when nobody reads them any more, or the disk behind stdout is full.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_read, self._is_taken = True, True

    def _tell(self, event: str, moment: Any) -> None:
        self._write({"event": event, **asdict(moment)})

    def _write(self, values: dict[str, Any]) -> None:
        if not self._is_read:
            return
        try:
            self._console.json_line(values)
            self._is_taken = True
        except OSError as error:
            was_taken, self._is_taken, self._is_read = self._is_taken, False, is_out_of_space(error)
            if was_taken:
                what = "the disk behind stdout is full" if self._is_read else "nobody reads stdout any more"
                self._console.notice(f"{what}; training goes on, and metrics.jsonl has every step")

    def on_start(self, start: RunStart) -> None:
        self._tell("start", start)

    def on_step(self, report: StepReport) -> None:
        self._tell("step", report)

    def on_iteration(self, report: IterationReport) -> None:
        self._write({"event": "iteration", **figures(report)})

    def on_reward(self, report: RewardReport) -> None:
        self._write({"event": "reward", **figures(report)})

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._write({"event": "evaluation", **recorded(report)})

    def on_sample(self, sample: Sample) -> None:
        self._tell("sample", sample)

    def on_save(self, saved: Saved) -> None:
        self._tell("save", saved)

    def on_notice(self, text: str) -> None:
        self._console.notice(text)

    def on_end(self, end: RunEnd) -> None:
        self._write({"event": "end", **recorded(end)})


def _stage(report: StepReport) -> list[str]:
    """Which stage of how many, and its steps that are left; the last one stays."""
    if report.stage is None:
        return []
    stage = report.stage
    more = 0 if stage.last_step is None else stage.last_step - report.step
    left = "" if stage.last_step is None else f", {more:,} step{'' if more == 1 else 's'} left"
    return [f"stage {stage.name} {stage.number}/{stage.of}{left}"]


def _bounded(report: EvaluationReport | RunEnd) -> str:
    """What stands before a held-out figure that is not exact."""
    return "at most " if report.is_bound else ""


def outcome(end: RunEnd) -> str:
    """How a run ended, in one line."""
    reason = end.reason.replace("_", " ")
    parts = [f"{reason}: step {end.step:,}, {count(end.tokens)} tokens, {duration(end.seconds)}"]
    if end.nll is not None:
        parts.append(f"loss {end.nll:.3f}")
    if end.validation_nll is not None:
        parts.append(f"held-out loss {_bounded(end)}{end.validation_nll:.3f}")
    if end.reward is not None:
        parts.append(f"held-out reward {end.reward:.3f}")
    if end.bits_per_byte is not None:
        parts.append(f"{_bounded(end)}{end.bits_per_byte:.3f} bits per byte")
    return ", ".join(parts)
