"""What a person sees of the training of a reward model: one live line, and the milestones above it."""

from typing import final

from dreamlm.cli.console import Console
from dreamlm.cli.live_line import LiveLine, count, duration
from dreamlm.core.training.hooks import Hook, PreferenceMeasured, RunEnd, RunStart, StepReport

_MEMORY = 0.9
"""How much of the displayed loss and accuracy is kept from one step to the next: single steps jump about."""


@final
class LiveReward(Hook):
    """Draws the run on a live line: step, loss, accuracy, tokens/s. The result is for the command to say."""

    def __init__(self, console: Console, line: LiveLine) -> None:
        self._console, self._line = console, line
        self._planned_steps = 0
        self._shown: dict[str, float] = {}

    def on_start(self, start: RunStart) -> None:
        self._planned_steps = start.planned_steps
        begins = f"resumes at step {start.step}" if start.resumed else "starts"
        self._console.notice(
            f"training {begins}: {count(start.parameters)} parameters, {count(start.train_tokens)} tokens in "
            f"{start.planned_steps:,} steps, {start.precision} on {start.device}"
        )

    def on_step(self, report: StepReport) -> None:
        loss = self._smooth("loss", report.nll)
        accuracy = self._smooth("accuracy", report.probes["accuracy"][0])
        parts = [
            f"step {report.step:,}/{self._planned_steps:,}",
            f"loss {loss:.3f}",
            f"accuracy {accuracy:.0%}",
            f"{count(report.tokens_per_second)} tokens/s",
        ]
        if not report.applied:
            parts.append("skipped")
        self._line.show("  ".join(parts), report.step / self._planned_steps)

    def on_preference(self, report: PreferenceMeasured) -> None:
        low, high = report.accuracy_interval
        best = ", the best so far" if report.best else ""
        self._console.notice(
            f"step {report.step:,}: held-out accuracy {report.accuracy:.1%} ({low:.1%} to {high:.1%}), "
            f"loss {report.loss:.3f}{best}"
        )

    def on_notice(self, text: str) -> None:
        self._console.notice(text)

    def on_end(self, end: RunEnd) -> None:
        self._console.notice(
            f"{end.reason.replace('_', ' ')}: step {end.step:,}, {count(end.tokens)} tokens, {duration(end.seconds)}"
        )

    def _smooth(self, name: str, value: float) -> float:
        before = self._shown.get(name, value)
        self._shown[name] = _MEMORY * before + (1 - _MEMORY) * value
        return self._shown[name]
